// Sources: System V AMD64 ABI §3.2 (registers, stack alignment, MXCSR); translator.md §2.
#include "accel/tcg/host/x64/thunks.h"

#include "accel/tcg/host/x64/pins.h"

namespace vmm::tcg::x64 {

namespace {

constexpr u32 arithmetic_flags = 0x8d5;
constexpr usize x87_image_opcode = 6, x87_image_ip = 8, x87_image_data = 16;  // in an FXSAVE image
constexpr Reg callee_saved[] = {Reg::rbx, Reg::rbp, Reg::r12, Reg::r13, Reg::r14, Reg::r15};
constexpr Reg light_set[] = {Reg::rax, Reg::rdx, Reg::rsi, Reg::rdi, Reg::r8, Reg::r9, Reg::r10, Reg::r11};

class ThunkEmitter {
 public:
  ThunkEmitter(std::span<u8> space, u64 base, const Layout& layout) : buffer_(space), a_(buffer_), base_(base), l_(layout) {}
  bool emit(const Callbacks& c, Thunks& out, usize& used);

 private:
  u64 begin() {
    a_.align(base_, 64);
    return base_ + a_.here();
  }
  // `bias`: how far rsp is below the frame.
  Mem frame(usize offset, i32 bias) const { return {.base = Reg::rsp, .disp = static_cast<i32>(offset) + bias}; }
  Mem state(Reg base, usize offset) const { return {.base = base, .disp = static_cast<i32>(offset)}; }
  void save_vectors(Reg state_reg);
  void load_vectors(Reg state_reg);
  // The x87 is loaded on demand, by the first instruction that needs it, and saved whenever C++ runs: few programs use it.
  void save_x87(Reg state_reg, i32 bias, bool for_good);
  void load_x87(Reg state_reg, i32 bias);
  void save_gprs(i32 bias);
  void save_rest(i32 bias);
  void save_all(i32 bias) {
    save_gprs(bias), save_rest(bias);
  }  // rcx and r13 are kept in saved[10], saved[11]; rax is free afterwards, rcx = state
  void load_context();         // rsp = frame: the address table, if it is another; then scratch = state, and spilled registers
  void load_flags_and_gprs();  // of the state in scratch
  void load_all();             // rsp = frame; all but scratches
  void resume();               // at frame.resume
  using Callback = u64 (*)(FrameHead*, u64, u64, u64);
  void call(Callback f);  // with what a callback gets; the result in rax
  void call_full(Callback f, usize leave_at, Callback first = nullptr);
  u64 fill(u64 (*f)(FrameHead*, u64, u64));
  u64 light(u64 (*f)(FrameHead*, u64, u64, u64, u64, u64), usize interpret_at);
  void dispatch_by_victims(usize look_up);
  void load_table();
  void load_flags();
  void jump_to(usize at) { a_.bind32(a_.jmp(), at); }

  Buffer buffer_;
  Assembler a_;
  const u64 base_;
  const Layout& l_;
};

void ThunkEmitter::save_vectors(Reg s) {
  for (u8 i = 0; i < 16; i++) a_.vmovups_store256(state(s, l_.vectors + 32u * i), i);
  a_.vzeroupper();
  a_.stmxcsr(state(s, l_.mxcsr));
}

void ThunkEmitter::load_vectors(Reg s) {
  for (u8 i = 0; i < 16; i++) a_.vmovups_load256(i, state(s, l_.vectors + 32u * i));
  a_.ldmxcsr(state(s, l_.mxcsr));
}

// fxsave64 and fninit wait for nothing, so a pending exception stays the guest's. The pointers it stores are addresses of ours,
// if any: those of the guest's instruction stand in the frame.
void ThunkEmitter::save_x87(Reg s, i32 bias, bool for_good) {
  a_.mov(Reg::rax, frame(l_.x87_live, bias));
  a_.test(Reg::rax, Reg::rax);
  const usize skip = a_.jcc_short(Condition::e);
  a_.instruction({.map = 1, .opcode = 0xae, .w = true}, 0, Rm::of(state(s, l_.x87)));
  a_.out().byte(0xdb), a_.out().byte(0xe3);
  if (for_good) {
    a_.mov_store_imm(frame(l_.x87_live, bias), 0);
    a_.instruction({.map = 1, .opcode = 0xb7}, number(Reg::rax), Rm::of(frame(l_.x87_offset, bias)));  // movzx
    a_.mov(Reg::rdx, frame(l_.x87_page, bias));
    a_.lea(Reg::rax, {.base = Reg::rax, .index = Reg::rdx});
    a_.mov(state(s, l_.x87 + x87_image_ip), Reg::rax);
    a_.mov(Reg::rax, frame(l_.x87_data, bias));
    a_.mov(state(s, l_.x87 + x87_image_data), Reg::rax);
    a_.instruction({.map = 1, .opcode = 0xb7}, number(Reg::rax), Rm::of(frame(l_.x87_opcode, bias)));
    a_.mov16(state(s, l_.x87 + x87_image_opcode), Reg::rax);
  }
  (void)a_.bind8(skip, a_.here());
}

void ThunkEmitter::load_x87(Reg s, i32 bias) {
  a_.mov(Reg::rdx, frame(l_.x87_live, bias));
  a_.test(Reg::rdx, Reg::rdx);
  const usize skip = a_.jcc_short(Condition::e);
  a_.instruction({.map = 1, .opcode = 0xae, .w = true}, 1, Rm::of(state(s, l_.x87)));
  (void)a_.bind8(skip, a_.here());
}

void ThunkEmitter::save_gprs(i32 bias) {
  a_.mov(frame(offsetof(FrameHead, saved) + 80, bias), scratch);
  a_.mov(frame(offsetof(FrameHead, saved) + 88, bias), scratch2);
  a_.mov(scratch, frame(l_.state_pointer, bias));
  for (u8 g = 0; g < first_spilled; g++) a_.mov(state(scratch, l_.gpr + 8u * g), pin(g));
  a_.pushfq();
  a_.pop(Reg::rax);
  for (u8 g = first_spilled; g < 16; g++) {
    a_.mov(Reg::rdx, frame(offsetof(FrameHead, spilled) + 8u * (g - first_spilled), bias));
    a_.mov(state(scratch, l_.gpr + 8u * g), Reg::rdx);
  }
  a_.and_imm32(Reg::rax, arithmetic_flags);
  a_.mov(Reg::rdx, state(scratch, l_.flags));
  a_.and_imm32(Reg::rdx, static_cast<i32>(~arithmetic_flags));
  a_.or_(Reg::rax, Reg::rdx);
  a_.mov(state(scratch, l_.flags), Reg::rax);
}

// scratch = state.
void ThunkEmitter::save_rest(i32 bias) {
  save_x87(scratch, bias, true);
  save_vectors(scratch);
  a_.ldmxcsr(frame(l_.host_mxcsr, bias));
}

// The table of the current context, if it has changed.
void ThunkEmitter::load_table() {
  a_.mov(scratch, frame(offsetof(FrameHead, ctx_gs), 0));
  a_.cmp(scratch, frame(l_.loaded_gs, 0));
  const usize same = a_.jcc_short(Condition::e);
  a_.wrgsbase(scratch);
  a_.mov(frame(l_.loaded_gs, 0), scratch);
  (void)a_.bind8(same, a_.here());
}

void ThunkEmitter::load_context() {
  load_table();
  a_.mov(scratch, frame(l_.state_pointer, 0));
  for (u8 g = first_spilled; g < 16; g++) {
    a_.mov(Reg::rdx, state(scratch, l_.gpr + 8u * g));
    a_.mov(frame(offsetof(FrameHead, spilled) + 8u * (g - first_spilled), 0), Reg::rdx);
  }
}

// rdx = flags. popf is slow: OF by an addition that overflows or not, the others by sahf.
void ThunkEmitter::load_flags() {
  a_.mov(Reg::rax, Reg::rdx);
  a_.shr_imm8(Reg::rax, 11);
  a_.and_imm32(Reg::rax, 1);
  a_.add_al_imm8(127);
  a_.out().byte(0x88), a_.out().byte(0xd4);  // mov ah, dl
  a_.sahf();
}

void ThunkEmitter::load_flags_and_gprs() {
  a_.mov(Reg::rdx, state(scratch, l_.flags));
  load_flags();
  for (u8 g = 0; g < first_spilled; g++) a_.mov(pin(g), state(scratch, l_.gpr + 8u * g));
}

void ThunkEmitter::load_all() {
  load_context();
  load_x87(scratch, 0);
  load_vectors(scratch);
  load_flags_and_gprs();
}

void ThunkEmitter::resume() {
  a_.mov(scratch2, frame(l_.resume_scratch2, 0));
  a_.mov(scratch, frame(l_.resume, 0));
  a_.jmp(scratch);
}

// rsp = frame − 8, at a return address.
void ThunkEmitter::call(Callback f) {
  a_.lea(Reg::rdi, frame(0, 8));
  a_.mov(Reg::rsi, frame(offsetof(FrameHead, saved) + 80, 8));
  a_.mov(Reg::rdx, frame(offsetof(FrameHead, saved) + 88, 8));
  a_.mov(Reg::rcx, Mem{.base = Reg::rsp});
  a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = -8});
  a_.mov(Reg::rax, reinterpret_cast<u64>(f));
  a_.call(Reg::rax);
  a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = 8});
}

// Entered by call or with a made-up return address: rsp = frame − 8.
void ThunkEmitter::call_full(Callback f, usize leave_at, Callback first) {
  save_gprs(8);
  if (first) {
    call(first);
    a_.test(Reg::rax, Reg::rax);
    const usize full = a_.jcc(Condition::e);
    a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = 8});
    a_.mov(frame(l_.resume, 0), Reg::rax);
    load_context();
    load_flags_and_gprs();
    resume();
    a_.bind32(full, a_.here());
    a_.mov(scratch, frame(l_.state_pointer, 8));
  }
  save_rest(8);
  call(f);
  a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = 8});
  a_.test(Reg::rax, Reg::rax);
  const usize go = a_.jcc_short(Condition::ne);
  jump_to(leave_at);
  (void)a_.bind8(go, a_.here());
  a_.mov(frame(l_.resume, 0), Reg::rax);
  load_all();
  resume();
}

// Saves only what C++ may change: the state need not be complete. rsp = frame − 8 at entry.
u64 ThunkEmitter::fill(u64 (*f)(FrameHead*, u64, u64)) {
  const u64 at = begin();
  for (usize i = 0; i < std::size(light_set); i++) a_.mov(frame(offsetof(FrameHead, saved) + 8 * (i + 3), 8), light_set[i]);
  a_.pushfq();
  a_.pop(Reg::rax);
  a_.mov(frame(offsetof(FrameHead, flags_ax), 8), Reg::rax);
  a_.mov(Reg::rsi, scratch);
  a_.mov(Reg::rdx, scratch2);
  a_.mov(scratch, frame(l_.state_pointer, 8));
  save_x87(scratch, 8, false);
  save_vectors(scratch);
  a_.ldmxcsr(frame(l_.host_mxcsr, 8));
  a_.lea(Reg::rdi, frame(0, 8));
  a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = -8});
  a_.mov(Reg::rax, reinterpret_cast<u64>(f));
  a_.call(Reg::rax);
  a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = 8});
  a_.mov(scratch, frame(l_.state_pointer, 8));
  load_x87(scratch, 8);
  load_vectors(scratch);
  a_.mov(scratch, Reg::rax);
  a_.mov(Reg::rax, frame(offsetof(FrameHead, flags_ax), 8));
  a_.push(Reg::rax);
  a_.popfq();
  for (usize i = 0; i < std::size(light_set); i++) a_.mov(light_set[i], frame(offsetof(FrameHead, saved) + 8 * (i + 3), 8));
  a_.ret();
  return at;
}

// rsp = frame − 8 at entry, the site's return address there.
u64 ThunkEmitter::light(u64 (*f)(FrameHead*, u64, u64, u64, u64, u64), usize interpret_at) {
  const u64 at = begin();
  const auto kept = [&](usize i, i32 bias) { return frame(offsetof(FrameHead, saved) + 8 * (i + 3), bias); };
  const Mem argument = frame(offsetof(FrameHead, saved) + 16, 8);
  for (usize i = 0; i < std::size(light_set); i++) a_.mov(kept(i, 8), light_set[i]);
  a_.mov(argument, scratch);
  a_.pushfq();
  a_.pop(Reg::rdx);
  a_.mov(frame(offsetof(FrameHead, flags_ax), 8), Reg::rdx);
  a_.mov(Reg::rsi, scratch);
  a_.mov(Reg::rcx, pin(guest_count_register));
  a_.mov(Reg::r8, Reg::r11);
  a_.mov(Reg::r9, Mem{.base = Reg::rsp});
  a_.lea(Reg::rdi, frame(0, 8));
  a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = -8});
  a_.mov(Reg::rax, reinterpret_cast<u64>(f));
  a_.call(Reg::rax);
  a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = 8});
  a_.test(Reg::rax, Reg::rax);
  const usize not_done = a_.jcc(Condition::e);
  a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = 8});
  a_.mov(frame(l_.resume, 0), Reg::rax);
  load_table();
  a_.mov(Reg::rdx, frame(l_.light_flags, 0));
  load_flags();
  for (usize i = 0; i + 1 < std::size(light_set); i++) a_.mov(light_set[i], kept(i, 0));
  a_.mov(Reg::r11, frame(l_.light_r11, 0));
  a_.mov(pin(guest_count_register), frame(l_.light_rcx, 0));
  resume();
  a_.bind32(not_done, a_.here());
  a_.mov(Reg::rax, frame(offsetof(FrameHead, flags_ax), 8));
  a_.push(Reg::rax);
  a_.popfq();
  for (usize i = 0; i < std::size(light_set); i++) a_.mov(light_set[i], kept(i, 8));
  a_.mov(scratch, argument);
  jump_to(interpret_at);
  return at;
}

// The target in scratch2 stays there; flag-free. A landing looks at the address once more.
void ThunkEmitter::dispatch_by_victims(usize look_up) {
  const Mem target = frame(offsetof(FrameHead, saved), 0), entry = frame(offsetof(FrameHead, saved) + 8, 0);
  a_.mov(target, scratch2);
  a_.pext(scratch, scratch2, frame(offsetof(FrameHead, victim_mask), 0));
  a_.lea(scratch, {.base = scratch, .index = scratch});
  a_.mov(scratch2, frame(offsetof(FrameHead, victims), 0));
  a_.lea(scratch, {.base = scratch2, .index = scratch, .scale = 3});
  a_.mov(entry, scratch);
  a_.mov(scratch2, target);
  a_.mov(scratch, Mem{.base = scratch});
  a_.lea(scratch, {.base = scratch, .index = scratch2});
  const usize found = a_.jrcxz();
  jump_to(look_up);
  (void)a_.bind8(found, a_.here());
  a_.mov(scratch, entry);
  a_.mov(scratch, Mem{.base = scratch, .disp = 8});
  const usize none = a_.jrcxz();
  a_.jmp(scratch);
  (void)a_.bind8(none, a_.here());
  jump_to(look_up);
}

bool ThunkEmitter::emit(const Callbacks& c, Thunks& out, usize& used) {
  const u64 enter = begin();
  for (const Reg r : callee_saved) a_.push(r);
  a_.lea(Reg::rax, {.base = Reg::rdi});
  a_.mov(Mem{.base = Reg::rdi, .disp = static_cast<i32>(l_.host_stack)}, Reg::rsp);
  a_.stmxcsr(Mem{.base = Reg::rdi, .disp = static_cast<i32>(l_.host_mxcsr)});
  a_.mov(Mem{.base = Reg::rdi, .disp = static_cast<i32>(l_.resume)}, Reg::rsi);
  a_.mov(Reg::rsp, Reg::rax);
  load_all();
  resume();

  // rsp = frame, state complete.
  begin();
  const usize left = a_.here();
  a_.mov(Reg::rsp, frame(l_.host_stack, 0));
  for (usize i = std::size(callee_saved); i-- > 0;) a_.pop(callee_saved[i]);
  a_.ret();
  begin();
  const usize left_called = a_.here();
  a_.mov_store_imm(frame(l_.reason, 0), static_cast<i32>(LeaveReason::called));
  jump_to(left);

  out.addresses.leave = begin();
  const usize leave_at = a_.here();
  save_all(0);
  a_.mov(Reg::rax, frame(offsetof(FrameHead, saved) + 88, 0));
  a_.mov(state(scratch, l_.ip), Reg::rax);
  a_.mov_store_imm(frame(l_.reason, 0), static_cast<i32>(LeaveReason::poll));
  jump_to(left);

  out.addresses.polled = begin();
  a_.pop(scratch);
  a_.mov(frame(offsetof(FrameHead, polled), 0), scratch);
  a_.bind32(a_.jmp(), leave_at);

  out.addresses.interpret = begin();
  const usize interpret_at = a_.here();
  call_full(c.interpret, left_called, c.quick);
  out.addresses.light = light(c.light, interpret_at);
  out.addresses.link = begin();
  call_full(c.link, left_called);
  out.addresses.x87 = begin();
  call_full(c.x87, left_called);
  out.addresses.revive = begin();
  const usize look_up = a_.here();
  a_.lea(Reg::rsp, {.base = Reg::rsp, .disp = -8});  // entered by a jump
  call_full(c.miss, left_called);
  out.addresses.miss = begin();
  dispatch_by_victims(look_up);
  out.addresses.fill = fill(c.fill);
  out.enter = reinterpret_cast<Thunks::Enter>(enter);
  used = a_.here();
  return !buffer_.overflowed();
}

}  // namespace

bool emit_thunks(std::span<u8> space, u64 base, const Layout& layout, const Callbacks& callbacks, Thunks& out, usize& used) {
  return ThunkEmitter{space, base, layout}.emit(callbacks, out, used);
}

}  // namespace vmm::tcg::x64
