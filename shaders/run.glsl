// The scalars of a run (program.c writes them).
layout(set = 0, binding = 0) readonly buffer Run {
  uint tokens; // rows of this run
  uint unused0;
  uint unused1;
  uint unused2;
  int entries[]; // positions [max_tokens], then sequences [max_tokens]
} run;
