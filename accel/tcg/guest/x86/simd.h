// Emitters of the vector, MMX and x87 instructions that no stub can run.
#pragma once

#include "accel/tcg/guest/x86/insn.h"
#include "accel/tcg/guest/x86/mode.h"

namespace vmm::tcg::x86 {

struct Cpu;
class Emitter;
struct Operands;

// State components that XSAVE handles for this CPU (bits of XCR0).
u64 supported_xcr0(const Cpu& cpu);

void emit_vzeroupper(Emitter&, const Insn&, Operands&);
void emit_vzeroall(Emitter&, const Insn&, Operands&);
void emit_masked_load(Emitter&, const Insn&, Operands&);
void emit_masked_store(Emitter&, const Insn&, Operands&);
void emit_masked_bytes(Emitter&, const Insn&, Operands&);
void emit_gather(Emitter&, const Insn&, Operands&);
void emit_fpu_nothing(Emitter&, const Insn&, Operands&);
void emit_fpu_wait(Emitter&, const Insn&, Operands&);
void emit_fpu_clear(Emitter&, const Insn&, Operands&);
void emit_fpu_init(Emitter&, const Insn&, Operands&);
void emit_fpu_load_control(Emitter&, const Insn&, Operands&);
void emit_fpu_store_control(Emitter&, const Insn&, Operands&);
void emit_fpu_store_status(Emitter&, const Insn&, Operands&);
void emit_fpu_load_environment(Emitter&, const Insn&, Operands&);
void emit_fpu_store_environment(Emitter&, const Insn&, Operands&);
void emit_fpu_save(Emitter&, const Insn&, Operands&);
void emit_fpu_restore(Emitter&, const Insn&, Operands&);

}  // namespace vmm::tcg::x86
