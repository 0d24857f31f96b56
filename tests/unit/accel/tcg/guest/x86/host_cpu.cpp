// See host_cpu.h. One memfd holds the code, mapped for writing and for running; the state stands right behind the running view.
#include "tests/unit/accel/tcg/guest/x86/host_cpu.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <csignal>
#include <cstring>

namespace vmm::test {

#if defined(__x86_64__)

namespace {

constexpr usize code_bytes = 4096;

u8 *running_begin = nullptr, *running_end = nullptr, *resume_at = nullptr;
int caught = 0;

void on_fault(int signal, siginfo_t*, void* context) {
  auto* const uc = static_cast<ucontext_t*>(context);
  u8* const rip = reinterpret_cast<u8*>(uc->uc_mcontext.gregs[REG_RIP]);
  if (rip < running_begin || rip >= running_end) {
    ::signal(signal, SIG_DFL);
    return;
  }
  caught = signal;
  uc->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(resume_at);
}

class Code {
 public:
  Code(u8* rw, u8* rx) : at_(rw), rw_(rw), rx_(rx) {}
  template <class... Bytes>
  void put(Bytes... b) {
    ((*at_++ = static_cast<u8>(b)), ...);
  }
  void put(std::span<const u8> bytes) { std::memcpy(at_, bytes.data(), bytes.size()), at_ += bytes.size(); }
  // ModRM with `reg`, addressing the state at `offset` relative to rip.
  void state(unsigned reg, usize offset) {
    put((reg & 7) << 3 | 5);
    const i32 disp = static_cast<i32>(rx_ + code_bytes + offset - (rx_ + (at_ - rw_) + 4));
    std::memcpy(at_, &disp, 4), at_ += 4;
  }
  u8* here() const { return rx_ + (at_ - rw_); }

 private:
  u8 *at_, *rw_, *rx_;
};

}  // namespace

HostCpu* HostCpu::get() {
  static HostCpu cpu;
  static const bool ok = cpu.open();
  return ok ? &cpu : nullptr;
}

bool HostCpu::open() {
  if (!__builtin_cpu_supports("avx2")) return false;
  const int fd = ::memfd_create("host-cpu", MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, code_bytes) < 0) return false;
  void* const area = ::mmap(nullptr, 4 * code_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void* const rx = ::mmap(area, code_bytes, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd, 0);
  void* const rw = ::mmap(nullptr, code_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (area == MAP_FAILED || rx == MAP_FAILED || rw == MAP_FAILED) return false;
  rx_ = static_cast<u8*>(rx), rw_ = static_cast<u8*>(rw);
  return true;
}

int HostCpu::run(std::span<const u8> bytes, HostState& state) {
  Code c(rw_, rx_);
  state.host_mxcsr = 0x1f80;
  c.put(0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57);  // push rbx rbp r12–r15
  c.put(0x48, 0x89), c.state(4, offsetof(HostState, host_rsp));       // mov [], rsp
  c.put(0x48, 0x0f, 0xae), c.state(1, offsetof(HostState, x87));      // fxrstor64
  c.put(0x0f, 0xae), c.state(2, offsetof(HostState, mxcsr));          // ldmxcsr
  for (unsigned n = 0; n < 16; ++n) c.put(0xc5, n < 8 ? 0xfc : 0x7c, 0x10), c.state(n, offsetof(HostState, ymm) + n * 32);
  c.put(0xff), c.state(6, offsetof(HostState, flags)), c.put(0x9d);  // push []; popfq
  for (unsigned n = 0; n < 16; ++n)
    if (n != 4) c.put(n < 8 ? 0x48 : 0x4c, 0x8b), c.state(n, offsetof(HostState, gpr) + n * 8);
  running_begin = c.here();
  c.put(bytes);
  running_end = resume_at = c.here();
  c.put(0x9c, 0x8f), c.state(0, offsetof(HostState, flags));  // pushfq; pop []
  for (unsigned n = 0; n < 16; ++n)
    if (n != 4) c.put(n < 8 ? 0x48 : 0x4c, 0x89), c.state(n, offsetof(HostState, gpr) + n * 8);
  c.put(0xfc);  // cld
  for (unsigned n = 0; n < 16; ++n) c.put(0xc5, n < 8 ? 0xfc : 0x7c, 0x11), c.state(n, offsetof(HostState, ymm) + n * 32);
  c.put(0x0f, 0xae), c.state(3, offsetof(HostState, mxcsr));       // stmxcsr
  c.put(0x0f, 0xae), c.state(2, offsetof(HostState, host_mxcsr));  // ldmxcsr
  c.put(0x48, 0x0f, 0xae), c.state(0, offsetof(HostState, x87));   // fxsave64
  c.put(0xdb, 0xe3, 0xc5, 0xf8, 0x77);                             // fninit; vzeroupper
  c.put(0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3);
  HostState* const placed = reinterpret_cast<HostState*>(rx_ + code_bytes);
  std::memcpy(placed, &state, sizeof state);

  struct sigaction action{}, old[4];
  constexpr int signals[] = {SIGFPE, SIGSEGV, SIGILL, SIGBUS};
  action.sa_sigaction = on_fault, action.sa_flags = SA_SIGINFO | SA_NODEFER;
  for (unsigned i = 0; i < 4; ++i) ::sigaction(signals[i], &action, &old[i]);
  caught = 0;
  reinterpret_cast<void (*)()>(rx_)();
  for (unsigned i = 0; i < 4; ++i) ::sigaction(signals[i], &old[i], nullptr);
  std::memcpy(&state, placed, sizeof state);
  return caught;
}

#else

HostCpu* HostCpu::get() { return nullptr; }
int HostCpu::run(std::span<const u8>, HostState&) { return 0; }

#endif

}  // namespace vmm::test
