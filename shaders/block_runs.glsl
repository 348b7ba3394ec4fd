// Words of a block that share their coefficients: groups are multiples of 32 columns, a block is 4 words. Needs the specialization constant
// GROUP.
const uint GROUP_WORDS = GROUP / 32;
const uint RUN_WORDS = GROUP_WORDS % 4 == 0 ? 4 : GROUP_WORDS % 2 == 0 ? 2 : 1;
