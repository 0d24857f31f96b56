// See host_user.h.
#include "tests/unit/accel/tcg/guest/x86/host_user.h"

#include <asm/ldt.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <string>

#include "accel/tcg/run/fault.h"
#include "src/base/format.h"

// What the first instructions of the signal handler see and put back. AC and segment registers are the guest's until then, so that no
// compiled code may run before.
extern "C" {
volatile vmm::u64 vmm_host_user_inside;
vmm::u64 vmm_host_user_own_fs, vmm_host_user_own_gs, vmm_host_user_fs, vmm_host_user_gs;
vmm::u16 vmm_host_user_selectors[4];  // ds es fs gs
void vmm_host_user_signal(int, siginfo_t*, void*);
void vmm_host_user_caught(int signal, siginfo_t* info, void* context);
}

asm(R"(
  .text
  .type vmm_host_user_signal, @function
vmm_host_user_signal:
  cmpq $0, vmm_host_user_inside(%rip)
  je 1f
  pushfq
  andl $~0x40000, (%rsp)
  popfq
  mov %ds, %eax
  mov %ax, vmm_host_user_selectors(%rip)
  mov %es, %eax
  mov %ax, vmm_host_user_selectors+2(%rip)
  mov %fs, %eax
  mov %ax, vmm_host_user_selectors+4(%rip)
  mov %gs, %eax
  mov %ax, vmm_host_user_selectors+6(%rip)
  rdfsbase %rax
  mov %rax, vmm_host_user_fs(%rip)
  rdgsbase %rax
  mov %rax, vmm_host_user_gs(%rip)
  xor %eax, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %fs
  mov %eax, %gs
  mov vmm_host_user_own_fs(%rip), %rax
  wrfsbase %rax
  mov vmm_host_user_own_gs(%rip), %rax
  wrgsbase %rax
1: jmp vmm_host_user_caught
  .size vmm_host_user_signal, .-vmm_host_user_signal
)");

static_assert(sizeof(vmm::x86::X87Image) == 512);

namespace vmm::test {

namespace {

using vmm::x86::State;

constexpr int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                           REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
constexpr int signals[] = {SIGUSR1, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGVTALRM};
constexpr unsigned most_ticks = 20;  // of the caller's timer, in one run
constexpr usize high_halves = 576;   // of the vectors, in an XSAVE image (SDM 1, 13.4.3: CPUID says so on every CPU with AVX)

State* running = nullptr;
HostUser::End* ended = nullptr;
unsigned ticks = 0;
gregset_t home;
sigset_t home_mask;
struct sigaction before[std::size(signals)];

u64 field(greg_t packed, unsigned number) { return static_cast<u64>(packed) >> (16 * number) & 0xffff; }

// Segment registers and bases as the guest has them; nothing that needs a base of our own may follow.
[[gnu::always_inline]] inline void load_segments(u16 ds, u16 es, u16 fs, u16 gs, u64 fs_base, u64 gs_base, bool bases) {
  asm volatile("mov %0, %%ds\n mov %1, %%es" ::"r"(u32{ds}), "r"(u32{es}));
  asm volatile(
      "rdfsbase %%rax\n mov %%rax, vmm_host_user_own_fs(%%rip)\n rdgsbase %%rax\n mov %%rax, vmm_host_user_own_gs(%%rip)\n"
      "movq $1, vmm_host_user_inside(%%rip)\n"
      "mov %0, %%fs\n mov %1, %%gs\n test %4, %4\n jz 1f\n wrfsbase %2\n wrgsbase %3\n1:" ::"r"(u32{fs}),
      "r"(u32{gs}), "r"(fs_base), "r"(gs_base), "r"(u32{bases})
      : "rax", "cc", "memory");
}

void enter(ucontext_t& u) {
  gregset_t& r = u.uc_mcontext.gregs;
  std::memcpy(&home, &r, sizeof home), home_mask = u.uc_sigmask;
  State& s = *running;
  for (unsigned i = 0; i < 16; i++) r[order[i]] = static_cast<greg_t>(s.gpr[i]);
  r[REG_RIP] = static_cast<greg_t>(s.rip), r[REG_EFL] = static_cast<greg_t>(s.rflags);
  r[REG_CSGSFS] = static_cast<greg_t>(s.segment[vmm::x86::cs].selector | u64{s.segment[vmm::x86::ss].selector} << 48);
  u8* const image = reinterpret_cast<u8*>(u.uc_mcontext.fpregs);
  vmm::x86::X87Image x87 = s.x87;
  x87.mxcsr = s.mxcsr;
  std::memcpy(image, &x87, 28), std::memcpy(image + 32, x87.st.data(), 128);
  for (unsigned i = 0; i < 16; i++) {
    std::memcpy(image + 160 + 16 * i, s.vector[i].lane.data(), 16);
    std::memcpy(image + high_halves + 16 * i, s.vector[i].lane.data() + 2, 16);
  }
  u64 present;
  std::memcpy(&present, image + 512, 8);
  present |= 7;
  std::memcpy(image + 512, &present, 8);
}

void leave(ucontext_t& u, HostUser::End end) {
  gregset_t& r = u.uc_mcontext.gregs;
  State& s = *running;
  for (unsigned i = 0; i < 16; i++) s.gpr[i] = static_cast<u64>(r[order[i]]);
  s.rip = static_cast<u64>(r[REG_RIP]), s.rflags = static_cast<u64>(r[REG_EFL]);
  s.segment[vmm::x86::cs].selector = static_cast<u16>(field(r[REG_CSGSFS], 0));
  s.segment[vmm::x86::ss].selector = static_cast<u16>(field(r[REG_CSGSFS], 3));
  constexpr unsigned data[4] = {vmm::x86::ds, vmm::x86::es, vmm::x86::fs, vmm::x86::gs};
  for (unsigned i = 0; i < 4; i++) s.segment[data[i]].selector = vmm_host_user_selectors[i];
  s.segment[vmm::x86::fs].base = vmm_host_user_fs, s.segment[vmm::x86::gs].base = vmm_host_user_gs;
  u8* const image = reinterpret_cast<u8*>(u.uc_mcontext.fpregs);
  u64 present;
  std::memcpy(&present, image + 512, 8);
  vmm::x86::X87Image x87;
  if (present & 1) std::memcpy(&x87, image, 24), std::memcpy(x87.st.data(), image + 32, 128);
  std::memcpy(&s.mxcsr, image + 24, 4);
  x87.mxcsr = s.x87.mxcsr, x87.mxcsr_mask = s.x87.mxcsr_mask, x87.rest = s.x87.rest;
  s.x87 = x87;
  for (unsigned i = 0; i < 16; i++) {
    s.vector[i] = {};
    if (present & 2) std::memcpy(s.vector[i].lane.data(), image + 160 + 16 * i, 16);
    if (present & 4) std::memcpy(s.vector[i].lane.data() + 2, image + high_halves + 16 * i, 16);
  }
  *ended = end;
  // Home, with a clean FPU.
  std::memcpy(&r, &home, sizeof home), u.uc_sigmask = home_mask;
  present = (present & ~u64{0xe4}) | 3;  // upper halves clean, so that SSE code of ours is not slowed down
  const vmm::x86::X87Image clean;
  std::memcpy(image, &clean, 28), std::memcpy(image + 512, &present, 8);
}

}  // namespace

extern "C" void vmm_host_user_caught(int signal, siginfo_t*, void* context) {
  ucontext_t& u = *static_cast<ucontext_t*>(context);
  if (!vmm_host_user_inside) {
    if (signal == SIGUSR1 && running) {
      enter(u);
      const State& s = *running;
      const auto& g = s.segment;
      load_segments(g[vmm::x86::ds].selector, g[vmm::x86::es].selector, g[vmm::x86::fs].selector, g[vmm::x86::gs].selector,
                    g[vmm::x86::fs].base, g[vmm::x86::gs].base, g[vmm::x86::cs].is_long());
      return;
    }
    // Somebody else's: it comes again where it belongs.
    for (unsigned i = 0; i < std::size(signals); i++)
      if (signals[i] == signal && signal != SIGVTALRM) ::sigaction(signal, &before[i], nullptr);
    return;
  }
  vmm_host_user_inside = 0;
  if (signal == SIGUSR1) return;
  if (signal == SIGVTALRM) {
    if (++ticks < most_ticks) {
      const u16* const at = vmm_host_user_selectors;
      load_segments(at[0], at[1], at[2], at[3], vmm_host_user_fs, vmm_host_user_gs, true);
      return;
    }
    return leave(u, {});
  }
  const gregset_t& r = u.uc_mcontext.gregs;
  if (signal == SIGSYS) return leave(u, {});
  leave(u, {.vector = static_cast<int>(r[REG_TRAPNO]), .error = static_cast<u32>(r[REG_ERR]), .cr2 = static_cast<u64>(r[REG_CR2])});
}

HostUser* HostUser::get(u64 code, u64 code_bytes, u64 data, u64 data_bytes, std::span<const LdtEntry> ldt, std::string& why) {
  static HostUser user;
  if (user.code_) return &user;
  constexpr u64 fsgsbase = 2;
  if (!(::getauxval(AT_HWCAP2) & fsgsbase) || !__builtin_cpu_supports("avx")) return why = "this CPU has no FSGSBASE or AVX", nullptr;
  for (unsigned i = 0; i < ldt.size(); i++) {
    const LdtEntry& e = ldt[i];
    user_desc d{};
    d.entry_number = i, d.base_addr = e.base, d.limit = e.limit, d.seg_32bit = e.big, d.contents = e.contents & 3u;
    d.read_exec_only = e.read_or_execute_only, d.limit_in_pages = e.pages, d.seg_not_present = e.absent;
    if (::syscall(SYS_modify_ldt, 0x11, &d, sizeof d) < 0) return why = format("modify_ldt: {}", std::strerror(errno)), nullptr;
  }
  // System calls from low addresses, where only guest code is, become SIGSYS.
  static char blocked = 1;
  if (::prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, u64{1} << 32, (u64{1} << 47) - (u64{1} << 32), &blocked) < 0)
    return why = format("no dispatch of system calls: {}", std::strerror(errno)), nullptr;
  const auto map = [](u64 at, u64 bytes, int rights) {
    return ::mmap(reinterpret_cast<void*>(at), bytes, rights, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != MAP_FAILED;
  };
  if (!map(code, code_bytes, PROT_READ | PROT_WRITE | PROT_EXEC) || !map(data, data_bytes, PROT_READ | PROT_WRITE))
    return why = format("nothing can be mapped at {:#x}: {}", code, std::strerror(errno)), nullptr;
  if (!tcg::prepare_signal_stack()) return why = "no signal stack", nullptr;
  user.code_ = reinterpret_cast<u8*>(code), user.data_ = reinterpret_cast<u8*>(data);
  return &user;
}

HostUser::End HostUser::run(vmm::x86::State& state) {
  End end;
  running = &state, ended = &end, ticks = 0;
  struct sigaction action = {};
  action.sa_sigaction = vmm_host_user_signal, action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigaddset(&action.sa_mask, SIGVTALRM);
  for (unsigned i = 0; i < std::size(signals); i++) ::sigaction(signals[i], &action, &before[i]);
  ::syscall(SYS_tgkill, ::getpid(), ::gettid(), SIGUSR1);
  __builtin_ia32_writeeflags_u64(2);  // NT and ID stay as the guest left them: sigreturn does not restore them
  for (unsigned i = 0; i < std::size(signals); i++) ::sigaction(signals[i], &before[i], nullptr);
  running = nullptr;
  return end;
}

}  // namespace vmm::test
