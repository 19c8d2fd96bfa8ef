/**
 * @file lowrank.h
 * liblowrank: language models made smaller, elastic and adaptable through low-rank structure.
 * The headers follow the one flow: open, observe, decide, rewrite, judge, save.
 */
#ifndef LOWRANK_H
#define LOWRANK_H

#include <lowrank/base.h>
#include <lowrank/context.h>
#include <lowrank/tensor.h>
#include <lowrank/tokenizer.h>
#include <lowrank/linear.h>
#include <lowrank/model.h>
#include <lowrank/hooks.h>
#include <lowrank/session.h>
#include <lowrank/stats.h>
#include <lowrank/plan.h>
#include <lowrank/compress.h>
#include <lowrank/optimizer.h>
#include <lowrank/learn.h>
#include <lowrank/train.h>
#include <lowrank/refine.h>
#include <lowrank/distill.h>
#include <lowrank/eval.h>
#include <lowrank/sensitivity.h>

#endif
