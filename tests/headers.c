/* Compiled once for each public header, with HEADER set to it: a header needs no other before it,
 * is clean in C99 and C++11, and no public struct has a hole. */
#ifndef HEADER
#define HEADER <lowrank.h>
#endif
#include HEADER
