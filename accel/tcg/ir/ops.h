// The operations of the intermediate form, one line each. X(name, inputs, result, leaves)
//   inputs: how many of a, b, c are values.   result: none | one | flags (value dst, and a `cc` value dst+1) | cc (only a `cc`).
//   leaves: may the instruction end here with a fault or an exit, so that guest state must be exact before it.
// A value is held zero-extended in 64 bits whatever its type; the type of an op is the width it works at.
#pragma once

// clang-format off
#define IR_OPS(X)                                                                                         \
  /* values and guest state */                                                                            \
  X(nop,        0, none,  false)                                                                          \
  X(constant,   0, one,   false) /* imm */                                                                \
  X(get,        0, one,   false) /* aux: StateId, disp: byte offset of that state's storage + part */    \
  X(set,        1, none,  false) /* aux: StateId, disp as get; writes only the type's width */           \
  X(get_cc,     0, one,   false) /* the six arithmetic flags as one value */                             \
  X(set_cc,     1, none,  false)                                                                          \
  X(ip_page,    0, one,   false) /* instruction pointer at offset 0 of the code page */                  \
  /* arithmetic without flags */                                                                          \
  X(add,        2, one,   false)                                                                          \
  X(sub,        2, one,   false)                                                                          \
  X(and_,       2, one,   false)                                                                          \
  X(or_,        2, one,   false)                                                                          \
  X(xor_,       2, one,   false)                                                                          \
  X(andn,       2, one,   false) /* ~a & b */                                                             \
  X(mul,        2, one,   false)                                                                          \
  X(shl,        2, one,   false) /* counts are taken modulo the width */                                  \
  X(shr,        2, one,   false)                                                                          \
  X(sar,        2, one,   false)                                                                          \
  X(rotl,       2, one,   false)                                                                          \
  X(rotr,       2, one,   false)                                                                          \
  X(neg,        1, one,   false)                                                                          \
  X(not_,       1, one,   false)                                                                          \
  X(bswap,      1, one,   false)                                                                          \
  X(add_imm,    1, one,   false) /* a + disp */                                                           \
  X(and_imm,    1, one,   false) /* a & zero-extended disp */                                             \
  X(shl_imm,    1, one,   false) /* a << disp */                                                          \
  X(shr_imm,    1, one,   false)                                                                          \
  X(trunc,      1, one,   false) /* cut to the type */                                                    \
  X(sext,       1, one,   false) /* from the type to 64 bits */                                           \
  X(deposit,    2, one,   false) /* a with its low bits (of the type) replaced by b; disp: shift 0 or 8 */ \
  X(lea,        2, one,   false) /* a + (b << aux) + disp, cut to the type */                             \
  X(select,     3, one,   false) /* a ? b : c */                                                          \
  X(equal,      2, one,   false) /* 0 or 1, here and below */                                             \
  X(less,       2, one,   false) /* unsigned */                                                           \
  X(test_cc,    1, one,   false) /* aux: Cond; a: cc */                                                   \
  /* arithmetic with flags: dst, and cc in dst+1. The last input is the old cc where one is read. */      \
  X(add_cc,     2, flags, false)                                                                          \
  X(sub_cc,     2, flags, false)                                                                          \
  X(adc_cc,     3, flags, false)                                                                          \
  X(sbb_cc,     3, flags, false)                                                                          \
  X(and_cc,     2, flags, false)                                                                          \
  X(or_cc,      2, flags, false)                                                                          \
  X(xor_cc,     2, flags, false)                                                                          \
  X(inc_cc,     2, flags, false) /* b: old cc, whose carry is kept */                                     \
  X(dec_cc,     2, flags, false)                                                                          \
  X(neg_cc,     1, flags, false)                                                                          \
  X(shl_cc,     3, flags, false) /* b: count, masked to 5 or 6 bits here; c: old cc, kept if the count is 0 */ \
  X(shr_cc,     3, flags, false)                                                                          \
  X(sar_cc,     3, flags, false)                                                                          \
  X(rol_cc,     3, flags, false)                                                                          \
  X(ror_cc,     3, flags, false)                                                                          \
  X(mul_cc,     2, flags, false) /* signed, low half */                                                   \
  /* memory: a = address; aux: Access bits; disp is added to the address */                               \
  X(load,       1, one,   true)                                                                           \
  X(store,      2, none,  true)                                                                           \
  X(rmw,        3, one,   true)  /* atomic; aux: Access | RmwKind << 8; b operand, c expected (cas); result: the old value */ \
  /* calls: aux: helper id; a, b, c arguments (0 = none). Result in dst, a `cc` (Cpu::cc_out) in dst+1. */ \
  X(call,       3, flags, false) /* leaf that cannot leave and touches no state but its result */         \
  X(call_state, 3, flags, true)  /* anything else */                                                      \
  X(sync_ip,    0, none,  false) /* disp: offset, aux: length of this instruction: writes ip, GuestCpu::next_ip */ \
  /* native form (E1): one op an instruction */                                                           \
  X(pass,       0, none,  true)  /* imm: index of its Native */                                           \
  X(slow,       0, none,  true)  /* imm: index of its Native; E0 executes this one instruction */         \
  /* ends. Targets are offsets from the start of the code page (may lie outside it) */                    \
  X(jump,       0, none,  true)  /* disp */                                                               \
  X(branch_cc,  1, none,  true)  /* a: cc; aux: Cond; disp: taken; imm2 (Block::fallthrough) else */      \
  X(branch,     1, none,  true)  /* a: not 0 = taken */                                                   \
  X(indirect,   1, none,  true)  /* a: the whole new ip */                                                \
  X(exit,       0, none,  true)  /* aux: ExitReason; disp: offset where ip stands */                      \
  X(exit_set,   0, none,  true)  /* aux: ExitReason; a helper has set ip */
// clang-format on
