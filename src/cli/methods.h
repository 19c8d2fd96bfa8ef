/* The ways to factorise by name, and what they need to know of the model. */
#ifndef LR_CLI_METHODS_H
#define LR_CLI_METHODS_H

extern const char *const methods[];
enum {
    METHOD_PCA,
    METHOD_WHITEN,
    METHOD_WHITEN_EIG,
    METHOD_SVD,
    METHOD_AFM,
    METHOD_ASVD,
    METHOD_QR,
    METHOD_FWSVD,
    METHOD_IWSVD,
    METHOD_KFAC
};

#define METHODS_HELP                                                                               \
    "pca, whiten, whiten-eig or qr (least error of the outputs), svd (of the weights, needs no "   \
    "text), asvd (of the weights, input channels scaled), afm (pca with a new bias); from "        \
    "gradients, kfac (least error of the outputs as the loss sees them), fwsvd and iwsvd (of the " \
    "weights, channels scaled by their Fisher information or importance) "

/* 1: statistics with gradients. */
int method_reads_gradients(int method);

#endif
