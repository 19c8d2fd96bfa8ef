#include "cli/methods.h"

#include <stddef.h>

const char *const methods[] = {
    [METHOD_PCA] = "pca",
    [METHOD_WHITEN] = "whiten",
    [METHOD_WHITEN_EIG] = "whiten-eig",
    [METHOD_SVD] = "svd",
    [METHOD_AFM] = "afm",
    [METHOD_ASVD] = "asvd",
    [METHOD_QR] = "qr",
    [METHOD_FWSVD] = "fwsvd",
    [METHOD_IWSVD] = "iwsvd",
    [METHOD_KFAC] = "kfac",
    NULL,
};

int method_reads_gradients(int method) { return method >= METHOD_FWSVD; }
