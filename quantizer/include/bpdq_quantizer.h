/* The offline quantizer: a dense Hugging Face model in, a BPDQ checkpoint (bit-planes on a variable grid) out.
 *
 * The only public header of the quantizer. Errors are values, as in bpdq.h: a function that can fail returns a bpdq_status and, when
 * `error` is not NULL, writes one line that names the file, tensor or option and what to do. Nothing is printed. One call at a time per
 * process is the intended use: the linear algebra below uses all the cores it is given.
 */
#ifndef BPDQ_QUANTIZER_H
#define BPDQ_QUANTIZER_H

#include "bpdq.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bpdq_quantize_method {
  BPDQ_METHOD_BPDQ = 0,  /* the default: coordinate descent and joint least squares on a target from the dense activations */
  BPDQ_METHOD_REFERENCE, /* the published BPDQ algorithm, step by step */
  BPDQ_METHOD_GPTQ,      /* uniform asymmetric grid of 2^planes levels with error compensation */
  BPDQ_METHOD_RTN        /* the same grid, round to nearest */
} bpdq_quantize_method;

/* "bpdq", "reference", "gptq", "rtn". Parsing returns false for any other word. */
BPDQ_API const char *bpdq_quantize_method_name(bpdq_quantize_method method);
BPDQ_API bool bpdq_quantize_method_parse(const char *word, bpdq_quantize_method *method);

/* Whether `name` is an `algebra` as the options below describe it; NULL is the default. Whether its devices are there shows when it is
 * used. */
BPDQ_API bool bpdq_quantize_algebra_known(const char *name);

typedef enum bpdq_calibration_format {
  BPDQ_CALIBRATION_AUTO = 0,   /* by the file's name: .jsonl, .ids, anything else is text */
  BPDQ_CALIBRATION_TEXT,       /* UTF-8 text, tokenized as a whole and cut into windows */
  BPDQ_CALIBRATION_JSON_LINES, /* one object per line with a string `text_field`: one document per line. Documents are packed into windows
                                */
  BPDQ_CALIBRATION_IDS         /* token ids as decimal numbers separated by blanks, commas or newlines (brackets are skipped) */
} bpdq_calibration_format;

/* The steps of --method bpdq, each of which can be left out to see what it pays. */
typedef struct bpdq_recipe {
  bool dense_target;       /* T from inputs of the dense stream (C), H from the quantized one; off: T = W */
  bool residual_target;    /* o_proj and down_proj also correct the residual stream (R) */
  bool best_per_row;       /* keep the best iterate of the walk per row instead of per group */
  bool several_starts;     /* also start each group from two uniform grids; each row keeps its best */
  int restarts;            /* 0 to 3 further descents, from one kind of start each; each row keeps its best. Default 0 */
  bool coordinate_descent; /* sweeps over the columns */
  bool joint_refit;        /* least squares over all coefficients of a row, after rounding to bf16 is taken into account */
  int rounds;              /* pairs of `sweeps_per_round` sweeps and a refit; default 4 */
  int sweeps_per_round;    /* default 2 */
  int final_sweeps;        /* default 2 */
  double target_damping;   /* lambda of T and Hd as a share of mean diag H; default 0.01 */
} bpdq_recipe;

/* Where the time goes, in seconds. With several devices, of the one that took longest. */
typedef struct bpdq_quantize_seconds {
  double load;       /* weights from the source's files */
  double forward;    /* calibration windows through the blocks, with the weights' way to the device */
  double statistics; /* sums of H, C and R */
  double factor;     /* H finished, ordered and factorised */
  double target, walk, sweeps, refits;
  double objectives; /* of the report, with the uniform grids that it compares with */
  double result;     /* planes back to the host, and the weights that they stand for */
  double write;      /* packing and writing shards */
} bpdq_quantize_seconds;

/* What is known of a linear layer once it is quantized. Objectives are tr((W-Q) H (W-Q)^T) with the undamped H and coefficients rounded as
 * stored; NAN where not computed. With dense or residual targets the objective against W is not what is minimised and may rise. */
typedef struct bpdq_layer_report {
  char name[160];        /* "model.layers.3.mlp.down_proj" */
  int64_t rows, columns; /* N, K */
  int planes, group;
  double bits_per_weight;           /* exact, with coefficients and padding */
  double objective;                 /* of the result, against W */
  double objective_target;          /* of the result, against the target T (equals `objective` when T = W) */
  double objective_zero;            /* of W' = 0 */
  double objective_rtn;             /* of round to nearest on the uniform grid with the same planes and group */
  double objective_gptq;            /* of GPTQ on that grid; NAN unless `compare_gptq` */
  double damping;                   /* share of mean diag H that the walk's factorisation needed */
  int64_t dead_columns;             /* columns that no calibration token excites */
  int64_t calibration_tokens;       /* tokens behind H; 0 for single-layer files */
  double seconds;                   /* of the algorithm alone, without forward passes */
  bpdq_quantize_seconds parts;      /* of this linear: from `target` to `result` */
  int64_t layer_index, layer_count; /* 0-based place of this linear among all that are quantized */
} bpdq_layer_report;

typedef struct bpdq_quantize_summary {
  int64_t linears;            /* quantized linear layers */
  uint64_t quantized_weights; /* weights in them */
  double bits_per_weight;     /* of them, exact */
  uint64_t source_bytes;      /* tensor bytes of the dense model */
  uint64_t written_bytes;     /* tensor bytes of the checkpoint */
  int64_t calibration_tokens;
  uint64_t peak_host_bytes;   /* peak resident memory of the process */
  uint64_t peak_device_bytes; /* most that was allocated on a device at a time; 0 on the CPU */
  double seconds, forward_seconds, algorithm_seconds;
  bpdq_quantize_seconds parts; /* of this call, without resumed blocks but for their forward passes */
  int64_t resumed_blocks;      /* decoder blocks taken over from an interrupted run */
} bpdq_quantize_summary;

typedef void (*bpdq_layer_callback)(void *user, const bpdq_layer_report *report);

typedef struct bpdq_quantize_options {
  bpdq_quantize_method method;
  int planes;    /* 1..8, default 2 */
  int group;     /* 32..256, a multiple of 32; default 64 */
  double bits;   /* > 0: a budget in bits per weight (with coefficients); plane counts are spread over the layers by measured
                    sensitivity, written as `dynamic` overrides; `planes` is ignored, and `group` is the smallest group considered (its
                    doubles up to 256 are too). Needs a calibration text whatever the method. Default 0 */
  int head_bits; /* 0: the head stays dense; else 2..8 planes for the head (a tied one is untied: the embedding stays dense) */

  const char *calibration_path; /* needed by bpdq_quantize_folder for every method but rtn */
  bpdq_calibration_format calibration_format;
  const char *text_field;  /* JSON-lines: default "text" */
  bool chat_template;      /* JSON-lines: render each document as one user message through the model's chat template */
  int64_t samples;         /* windows; 0: as many as the calibration text holds. Default 128 */
  int64_t sequence_length; /* tokens per window; default 1024, cut to the model's context */

  /* reference and gptq, and the first walk of bpdq */
  double damping; /* share of mean diag H added to H, default 0.05; raised in steps of 0.01 where the factorisation fails */
  int iterations; /* refinements of a group, default 10 */
  double alpha;   /* ridge of the coefficient fit, default 1e-4 */

  bpdq_recipe recipe; /* bpdq only */

  const char *algebra;  /* "cpu" (default), "cuda" or "cuda:N" (device N), or several that share the work: "cuda:0+cuda:1" */
  const char *backend;  /* where the forward passes run: "cpu", "vulkan" or "cuda". NULL (default): with a CUDA algebra on its devices, else
                           on the CPU, whatever the environment says: the bytes of the result depend on it. Measuring the
                           sensitivities for `bits` is on the CPU unless a backend is named */
  int device;           /* of that backend; -1 (default): its best */
  int threads;          /* 0: one per core */
  double device_memory; /* bytes that the algebra, and the backend where one is named, may take of a device's memory; 0 (default): all */
  bool compare_gptq;    /* also run GPTQ on each layer, for the report */
  bool resume;          /* go on with the interrupted run that left DST.partial behind; without one start anew */
  bool overwrite;       /* replace an existing output folder; default false: refuse */

  bpdq_progress_callback progress; /* fraction of the whole work; return false to stop */
  void *progress_user;
  bpdq_layer_callback layer_done;
  void *layer_user;
  bpdq_log_callback log;
  void *log_user;
  const volatile int *cancel; /* NULL, or a flag that any thread or a signal handler may set: the call stops soon with
                                 BPDQ_ERROR_CANCELLED; finished blocks stay in DST.partial for `resume` */
} bpdq_quantize_options;

/* The defaults named above: method bpdq with every part of the recipe, k = 2, g = 64, 128 windows of 1024 tokens, all cores. */
BPDQ_API bpdq_quantize_options bpdq_quantize_default_options(void);

/* Quantizes the dense model folder `source` into the folder `destination`, which appears complete or not at all (work in progress lies in
 * DESTINATION.partial). `summary` may be NULL. quantize_report.json in the destination holds the per-layer reports. */
BPDQ_API bpdq_status bpdq_quantize_folder(const char *source, const char *destination, const bpdq_quantize_options *options,
                                          bpdq_quantize_summary *summary, bpdq_error *error);

/* Quantizes one layer: reads `W` f32 [N, K] and `H` f32 [K, K] (undamped) from a safetensors file; optionally `C` f32 [K, K], the cross
 * covariance of dense and quantized inputs, and `R` f32 [N, K]. Writes `c` bf16 [G, k+1, N], `B` int32 [G*g/32, k, N] and `Q` f32 [N, K].
 * `report` may be NULL. */
BPDQ_API bpdq_status bpdq_quantize_layer_file(const char *input, const char *output, const bpdq_quantize_options *options,
                                              bpdq_layer_report *report, bpdq_error *error);

#ifdef __cplusplus
}
#endif
#endif
