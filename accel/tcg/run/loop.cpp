// See loop.h. Source: SDM 3A §6.8.3 (shadows), §17.3 (debug exceptions: RF, TF).
#include "accel/tcg/run/loop.h"

#include <utility>

#include "accel/tcg/guest/x86/translate.h"
#include "src/base/log.h"
#include "src/vm/cpu_registers.h"

namespace vmm::tcg {

using namespace x86;

const GuestOps x86_guest_ops{
    .name = "x86",
    .fetch = x86::fetch,
    .key = [](const GuestCpu& g) { return x86::key_of(static_cast<const x86::Cpu&>(g)).raw; },
    .translate = x86::translate,
    .deliver = x86::deliver,
    .leave = x86::leave,
    .walk = x86::debug_walk,
    .print = x86::print_insns,
    .states = x86::state_slots,
};

VcpuLoop::VcpuLoop(BlockStore& store, System& system, PortableRunner::DropWrites drop, void* self)
    : system_(system), cpu_(system.cpu), portable_(store, system.cpu, x86_guest_ops, drop, self) {}

Result<> VcpuLoop::add_tier(FirstTier& tier) {
  auto made = std::make_unique<X86Tier>(tier, portable_, cpu_, x86_guest_ops, system_.index);
  TRY(made->start());
  tier_ = std::move(made);
  return {};
}

// One instruction: single step, instruction breakpoints, the instruction after STI or MOV SS.
void VcpuLoop::step() {
  State& s = cpu_.state;
  const bool held = s.mov_ss_shadow;
  s.sti_shadow = s.mov_ss_shadow = false;
  if (!held && code_breakpoint(cpu_)) return;
  const bool trap = s.rflags & flag_tf && !held;
  s.rflags &= ~u64{flag_rf};
  ir::ExitReason reason = ir::ExitReason::next;
  portable_.run(1, ModeKey::step, reason);
  // Debug traps wait for the end of a MOV SS shadow.
  const System::StepTrap decided = std::exchange(system_.step_trap, System::StepTrap::by_old_flags);
  if (cpu_.fault || s.mov_ss_shadow) return;
  after_instruction(cpu_, decided == System::StepTrap::by_old_flags ? trap : decided == System::StepTrap::yes);
}

// `-d exec,cpu`: what each turn of the loop starts with. Generated code runs from block to block without coming here.
void VcpuLoop::log_turn() {
  const State& s = cpu_.state;
  const u64 base = s.code64() ? 0 : s.segment[x86::cs].base, address = base + s.rip;
  if (!log_address_wanted(address)) return;
  if (log_enabled(LogItem::exec))
    log(LogItem::exec, "Trace {}: [{:016x}/{:016x}/{:08x}] \n", system_.index, base, address, key_of(cpu_).raw);
  if (log_enabled(LogItem::cpu)) log_write(vm::describe_state(s, system_.model->has(CpuFeature::lm)));
}

// A breakpoint stands here, or one instruction was asked for (it is done now).
bool VcpuLoop::stop_for_debugger() {
  using Why = vm::DebugStop::Why;
  if (system_.step == System::Step::none) {
    if (!system_.debug->stops_at(linear_ip(cpu_))) return false;
    system_.debug_stop.why = Why::code;
    return true;
  }
  step();
  if (cpu_.fault) deliver(cpu_);
  if (system_.trap_after && !cpu_.state.mov_ss_shadow) {
    after_instruction(cpu_, false);
    if (cpu_.fault) deliver(cpu_);
  }
  if (system_.debug_stop.why == Why::none) system_.debug_stop.why = Why::step;
  return true;
}

void VcpuLoop::slice(u64 limit) {
  State& s = cpu_.state;
  for (; limit; --limit) {
    ++blocks_;
    if (log_enabled(LogItem::exec) || log_enabled(LogItem::cpu)) [[unlikely]]
      log_turn();
    if ((system_.debug || system_.step != System::Step::none) && stop_for_debugger()) [[unlikely]]
      return;
    if (s.sti_shadow || s.mov_ss_shadow || s.rflags & (flag_tf | flag_rf) || system_.code_breakpoints) [[unlikely]] {
      step();
    } else {
      ir::ExitReason reason = ir::ExitReason::next;
      if (!tier_ || !tier_->takes_now() || tier_->run() == FirstTierCpu::Left::interpret)
        portable_.run(ir::Block::max_instructions, debug_key(cpu_, linear_ip(cpu_)), reason);
      const bool step_now = std::exchange(system_.step_trap, System::StepTrap::by_old_flags) == System::StepTrap::yes;
      if ((system_.debug_hits || step_now) && !cpu_.fault && !s.mov_ss_shadow) [[unlikely]]
        after_instruction(cpu_, step_now);
    }
    if (cpu_.fault) deliver(cpu_);
    if (system_.trap_after && !s.mov_ss_shadow) [[unlikely]] {
      after_instruction(cpu_, false);
      if (cpu_.fault) deliver(cpu_);
    }
    if (system_.debug_stop.why != vm::DebugStop::Why::none) [[unlikely]]
      return;
    if (cpu_.leave || cpu_.poll.load(std::memory_order_relaxed) == 0 || s.activity != Activity::running) return;
    if (s.rflags & flag_if && system_.interrupts && system_.interrupts->pending()) return;
  }
}

void VcpuLoop::run() {
  using vm::Request, vm::DebugStop;
  constexpr u32 others = static_cast<u32>(Request::stop) | static_cast<u32>(Request::work) | static_cast<u32>(Request::exit);
  while (leave(cpu_)) {
    slice(~u64{0});
    if (system_.debug_stop.why != DebugStop::Why::none) return;
  }
  // Who is asked for an instruction and has none to execute has done so.
  if (system_.step != System::Step::none && !(system_.requests.load(std::memory_order_acquire) & others))
    system_.debug_stop.why = DebugStop::Why::step;
}

bool VcpuLoop::run_to_program() {
  system_.at_program = false;
  while (leave(cpu_)) {
    slice(~u64{0});
    if (system_.debug_stop.why != vm::DebugStop::Why::none) return false;
    if (std::exchange(system_.at_program, false)) return true;
  }
  return false;
}

bool VcpuLoop::run_some(u64 blocks) {
  const u64 end = blocks_ + blocks;
  while (blocks_ < end) {
    if (!leave(cpu_)) return false;
    slice(end - blocks_);
  }
  return true;
}

}  // namespace vmm::tcg
