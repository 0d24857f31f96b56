// Power-on, RESET and INIT values. Source: SDM 3A table 10-1 ("IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT").
#include "src/x86/state.h"

namespace vmm::x86 {

void reset(State& state, bool init, bool bootstrap_processor) {
  const State old = state;
  state = State{};
  const Segment data{.selector = 0, .attributes = 0x93, .limit = 0xffff, .base = 0};
  state.segment.fill(data);
  state.segment[cs] = {.selector = 0xf000, .attributes = 0x9b, .limit = 0xffff, .base = 0xffff'0000};
  state.ldtr = {.selector = 0, .attributes = 0x82, .limit = 0xffff, .base = 0};
  state.tr = {.selector = 0, .attributes = 0x8b, .limit = 0xffff, .base = 0};
  state.gdtr = state.idtr = {.base = 0, .limit = 0xffff};
  state.cr0 = 0x6000'0010;
  state.x87.fcw = 0x40;
  state.x87.ftw = 0xff;  // abridged form: all valid, +0.0
  state.mxcsr = 0x1f80;
  state.misc_enable = 1;
  // Kept across a system reset as well: a board that switches A20 does so itself.
  state.a20 = old.a20;
  state.tsc_offset = old.tsc_offset;
  state.tsc_adjust = old.tsc_adjust;
  if (init) {
    state.cr0 = (old.cr0 & (cr0_cd | cr0_nw)) | cr0_et;
    state.x87 = old.x87;
    state.vector = old.vector;
    state.mxcsr = old.mxcsr;
    state.xcr0 = old.xcr0;
    state.tsc_aux = old.tsc_aux;
    state.misc_enable = old.misc_enable;
    state.pat = old.pat;
    state.mtrr_def_type = old.mtrr_def_type;
    state.mtrr_fixed = old.mtrr_fixed;
    state.mtrr_base = old.mtrr_base;
    state.mtrr_mask = old.mtrr_mask;
    state.mcg_status = old.mcg_status;
    state.mcg_ctl = old.mcg_ctl;
    state.mc_bank = old.mc_bank;
    state.smbase = old.smbase;
    state.spec_ctrl = old.spec_ctrl;
    state.star = old.star;
    state.lstar = old.lstar;
    state.cstar = old.cstar;
    state.sfmask = old.sfmask;
    state.kernel_gs_base = old.kernel_gs_base;
    state.pkru = old.pkru;
    state.smi_pending = old.smi_pending;
    // A SIPI that came while the INIT still waited was sent after it, and must not be lost (seen with SeaBIOS, which sends both at once).
    state.sipi_pending = old.sipi_pending;
    state.sipi_vector = old.sipi_vector;
  }
  state.activity = bootstrap_processor ? Activity::running : Activity::wait_for_sipi;
}

}  // namespace vmm::x86
