/* Loops that the compiler vectorises for the processor found at run time. */
#ifndef BPDQ_QUANTIZER_VECTOR_H
#define BPDQ_QUANTIZER_VECTOR_H

/* By instruction set, not by processor name: names only match the models a compiler knows. Sanitizers run before the resolvers may;
 * clang before 18 gives the resolver another name than callers in other files expect. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !(defined(__clang__) && __clang_major__ < 18)
#define BPDQ_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define BPDQ_VECTOR_CLONES
#endif

#endif
