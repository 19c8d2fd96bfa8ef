/* modeling_lowrank.py, with which transformers loads a folder whose modules are chains. */
#ifndef LR_FORMAT_MODELING_H
#define LR_FORMAT_MODELING_H

extern const char lr__modeling_text[];

#endif
