// See fault.h. Sources: sigaction(2), sigaltstack(2), System V ABI (ucontext).
#include "accel/tcg/run/fault.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>

#include "accel/tcg/run/first_tier.h"

namespace vmm::tcg {

namespace {

constexpr usize max_tiers = 16;
std::atomic<FirstTier*> tiers[max_tiers];
struct sigaction previous_segv, previous_bus, previous_fpe;

void handle(int signal, siginfo_t* info, void* raw) {
  auto* const context = static_cast<ucontext_t*>(raw);
  const u64 pc = static_cast<u64>(context->uc_mcontext.gregs[REG_RIP]);
  for (const auto& slot : tiers) {
    FirstTier* const tier = slot.load(std::memory_order_acquire);
    if (!tier) continue;
    if (const u64 stub = tier->fault_stub(pc)) {
      tier->counters().signals++;
      context->uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(stub);
      return;
    }
  }
  // Ours: the default action, at the same place, with whatever handler stood there before.
  const struct sigaction& previous = signal == SIGSEGV ? previous_segv : signal == SIGBUS ? previous_bus : previous_fpe;
  if (previous.sa_flags & SA_SIGINFO && previous.sa_sigaction) return previous.sa_sigaction(signal, info, raw);
  struct sigaction plain{};
  plain.sa_handler = SIG_DFL;
  sigaction(signal, &plain, nullptr);
}

}  // namespace

void register_code(FirstTier& tier) {
  static const bool installed = [] {
    struct sigaction ours{};
    ours.sa_sigaction = handle;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&ours.sa_mask);
    return sigaction(SIGSEGV, &ours, &previous_segv) == 0 && sigaction(SIGBUS, &ours, &previous_bus) == 0 &&
           sigaction(SIGFPE, &ours, &previous_fpe) == 0;
  }();
  (void)installed;
  for (auto& slot : tiers) {
    FirstTier* nobody = nullptr;
    if (slot.compare_exchange_strong(nobody, &tier)) return;
  }
}

void unregister_code(FirstTier& tier) {
  for (auto& slot : tiers) {
    FirstTier* self = &tier;
    slot.compare_exchange_strong(self, nullptr);
  }
}

Result<> prepare_signal_stack() {
  constexpr usize bytes = 64 * 1024;
  stack_t now{};
  if (sigaltstack(nullptr, &now) == 0 && !(now.ss_flags & SS_DISABLE) && now.ss_size >= bytes) return {};
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return fail_errno("cannot map a signal stack");
  const stack_t stack{.ss_sp = at, .ss_flags = 0, .ss_size = bytes};
  if (sigaltstack(&stack, nullptr) < 0) return fail_errno("cannot set a signal stack");
  return {};
}

}  // namespace vmm::tcg
