/* The text of modeling_lowrank.py, made a literal by the Makefile. */
#include "format/modeling.h"

const char lr__modeling_text[] =
#include "modeling_lowrank.inc"
    ;
