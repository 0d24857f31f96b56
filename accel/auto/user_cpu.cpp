// See user_cpu.h. Source: Linux, Documentation/virt/kvm/api.rst; SDM 3A §3.4.5 (descriptors), §6.14 (IDT of 64-bit mode), §7.7 (TSS).
#include "accel/auto/user_cpu.h"

#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "accel/kvm/convert.h"
#include "accel/tcg/guest/x86/flat_segments.h"
#include "src/base/bits.h"

namespace vmm::both {

using vmm::x86::State;
namespace x = vmm::x86;

namespace {

// The private memory: tables of the CPU, a stack, a page of HLTs where all gates lead (16 a gate, so that the address tells the vector),
// one for SYSCALL, the page tables that show them; then pages for the tables of programs.
constexpr u64 page = 4096, idt = 0, gdt = page, tss = 2 * page, stack = 3 * page, gates = 4 * page, call = 5 * page, upper = 6 * page,
              pool = 16 * page, private_bytes = 16 * MiB;
constexpr u64 linear = 0xffff'ff80'0000'0000;  // where it lies
constexpr u16 user_code = 0x33, user_data = 0x2b, kernel_code = 8, task = 0x40;
constexpr unsigned gate_bytes = 16;
constexpr u64 sync = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;

bool has_code(u8 vector) { return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21; }

void fill_private(u8* at, u64 physical) {
  std::memset(at + gates, 0xf4, 2 * page);
  for (unsigned v = 0; v < 256; v++) {
    const u64 target = linear + gates + v * gate_bytes;
    store_le<u64>(at + idt + v * 16, (target & 0xffff) | u64{kernel_code} << 16 | u64{0x8e00} << 32 | (target >> 16 & 0xffff) << 48);
    store_le<u64>(at + idt + v * 16 + 8, target >> 32);
  }
  store_le<u64>(at + gdt + 8, 0x00af'9b00'0000'ffff), store_le<u64>(at + gdt + 16, 0x00cf'9300'0000'ffff);
  store_le<u64>(at + gdt + 0x28, 0x00cf'f300'0000'ffff), store_le<u64>(at + gdt + 0x30, 0x00af'fb00'0000'ffff);
  constexpr u64 base = linear + tss;
  store_le<u64>(at + gdt + task, 0x67 | (base & 0xff'ffff) << 16 | u64{0x8b} << 40 | (base >> 24 & 0xff) << 56);
  store_le<u64>(at + gdt + task + 8, base >> 32);
  store_le<u64>(at + tss + 4, linear + stack + page);
  store_le<u16>(at + tss + 102, 0xffff);  // no I/O map
  constexpr u64 table = 0x23 | 0x40, leaf = table | 0x100;
  store_le<u64>(at + upper + (linear >> 30 & 511) * 8, (physical + upper + page) | table);
  store_le<u64>(at + upper + page + (linear >> 21 & 511) * 8, (physical + upper + 2 * page) | table);
  for (u64 i = 0; i < upper / page; i++) store_le<u64>(at + upper + 2 * page + i * 8, (physical + i * page) | leaf);
}

kvm_segment flat(u16 selector, bool code, unsigned dpl) {
  return kvm::to(code ? tcg::x86::flat_code(selector, true, dpl) : tcg::x86::flat_stack(selector, dpl));
}

}  // namespace

UserCpu::UserCpu(UserMachine& machine, vm::ThreadedVcpu& vcpu, tcg::x86::Cpu& cpu, tcg::BlockStore& store, UserSpace::DropWrites drop,
                 void* self)
    : machine_(machine), vcpu_(vcpu), cpu_(cpu), state_(cpu.state), store_(store), drop_(drop), self_(self) {}

UserCpu::~UserCpu() {
  if (run_) ::munmap(run_, run_bytes_);
  if (private_) ::munmap(private_, private_bytes);
}

Result<> UserCpu::open() {
  kvm::KvmCpu::catch_kicks();
  const unsigned index = vcpu_.index();
  void* const memory = ::mmap(nullptr, private_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail("no memory: {}", std::strerror(errno));
  private_ = static_cast<u8*>(memory);
  const u64 physical = UserMachine::private_at(index);
  fill_private(private_, physical);
  if (!machine_.place_private(index, private_, private_bytes)) return fail("KVM refuses memory: {}", std::strerror(errno));
  fd_ = Fd{::ioctl(machine_.vm(), KVM_CREATE_VCPU, static_cast<unsigned long>(index))};
  if (!fd_) return fail("KVM makes no CPU {} for programs: {}", index, std::strerror(errno));
  const int bytes = ::ioctl(machine_.kvm(), KVM_GET_VCPU_MMAP_SIZE, 0);
  void* const at = bytes > 0 ? ::mmap(nullptr, static_cast<usize>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0) : MAP_FAILED;
  if (at == MAP_FAILED) return fail("the page shared with KVM's CPU {} cannot be had: {}", index, std::strerror(errno));
  run_ = static_cast<kvm_run*>(at), run_bytes_ = static_cast<usize>(bytes);
  if (::ioctl(machine_.vm(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2) > 4096) return fail("this kernel's KVM has a larger XSAVE image");

  // What this KVM can, it shall: programs are told by the translator what there is, and what KVM does not know of is an exception.
  auto cpuid = std::make_unique<kvm::CpuidTable>();
  cpuid->count = kvm::cpuid_limit;
  if (::ioctl(machine_.kvm(), kvm::get_supported_cpuid, cpuid.get()) < 0 || ::ioctl(fd_.get(), kvm::set_cpuid2, cpuid.get()) < 0)
    return fail("KVM refuses its own CPUID: {}", std::strerror(errno));
  bool xsave = false;
  for (u32 i = 0; i < cpuid->count; i++)
    if (cpuid->entry[i].function == 1) xsave = cpuid->entry[i].ecx >> 26 & 1;

  if (::ioctl(fd_.get(), KVM_GET_SREGS, &system_) < 0) return fail("KVM tells no registers: {}", std::strerror(errno));
  system_.cs = flat(user_code, true, 3), system_.ss = flat(user_data, false, 3);
  system_.tr = {.base = linear + tss, .limit = 0x67, .selector = task, .type = 11, .present = 1};
  system_.ldt = {.unusable = 1};
  system_.gdt = {.base = linear + gdt, .limit = task + 15};
  system_.idt = {.base = linear + idt, .limit = 256 * 16 - 1};
  system_.cr0 = x::cr0_pe | x::cr0_mp | x::cr0_et | x::cr0_ne | x::cr0_wp | x::cr0_am | x::cr0_pg;
  system_.cr4 = x::cr4_pae | x::cr4_pge | x::cr4_osfxsr | x::cr4_osxmmexcpt | x::cr4_umip | x::cr4_fsgsbase | x::cr4_tsd |
                (xsave ? u64{x::cr4_osxsave} : 0);
  system_.efer = x::efer_sce | x::efer_lme | x::efer_lma | x::efer_nxe;
  system_.cr3 = physical + upper;  // until there is a better one
  kvm::MsrTable msrs{.count = 3};
  msrs.entry[0].index = 0xc000'0081, msrs.entry[0].data = u64{0x23} << 48 | u64{kernel_code} << 32;
  msrs.entry[1].index = 0xc000'0082, msrs.entry[1].data = linear + call;
  msrs.entry[2].index = 0xc000'0084, msrs.entry[2].data = x::flag_tf | x::flag_if | x::flag_df | x::flag_ac | x::flag_nt;
  if (::ioctl(fd_.get(), KVM_SET_SREGS, &system_) < 0) return fail("KVM refuses the registers of a program: {}", std::strerror(errno));
  if (xsave) {
    kvm_xcrs xcrs{.nr_xcrs = 1, .flags = 0, .xcrs = {{.xcr = 0, .reserved = 0, .value = 7}}, .padding = {}};
    if (::ioctl(fd_.get(), KVM_SET_XCRS, &xcrs) < 0) return fail("KVM refuses AVX: {}", std::strerror(errno));
  }
  if (::ioctl(fd_.get(), kvm::set_msrs_request, &msrs) != 3) return fail("KVM refuses the address of system calls");
  run_->kvm_valid_regs = sync;

  const u64 kernel = (physical + upper) | 0x63;
  space_ = std::make_unique<UserSpace>(
      cpu_, store_, machine_, TablePages{private_ + pool, physical + pool, (private_bytes - pool) / page}, kernel,
      [this, index] { return machine_.place_private(index, private_, 0) && machine_.place_private(index, private_, private_bytes); }, drop_,
      self_);
  return {};
}

void UserCpu::leave_guest() {
  std::atomic_ref{run_->immediate_exit}.store(1, std::memory_order_seq_cst);
  if (!in_guest_.load(std::memory_order_seq_cst)) return;
  if (const int thread = vcpu_.host_thread_id(); thread > 0) ::syscall(SYS_tgkill, ::getpid(), thread, kvm::KvmCpu::kick_signal());
}

bool UserCpu::fits() const {
  const State& s = state_;
  constexpr u64 cr0_wanted = x::cr0_pe | x::cr0_pg | x::cr0_ne | x::cr0_wp, cr0_refused = x::cr0_ts | x::cr0_em;
  constexpr u64 cr4_wanted = x::cr4_pae | x::cr4_osfxsr | x::cr4_osxmmexcpt, cr4_refused = u64{1} << 23;  // shadow stacks
  constexpr u64 efer_wanted = x::efer_sce | x::efer_lma | x::efer_nxe;
  constexpr u64 flags_refused = x::flag_tf | x::flag_rf | x::flag_vm | x::flag_iopl | x::flag_nt | x::flag_ac;
  if (s.cpl() != 3 || !s.code64() || (s.cr0 & (cr0_wanted | cr0_refused)) != cr0_wanted || (s.efer & efer_wanted) != efer_wanted ||
      (s.cr4 & (cr4_wanted | cr4_refused)) != cr4_wanted || s.rflags & flags_refused || !(s.rflags & x::flag_if) || s.dr7 & 0xff ||
      s.xcr0 & ~u64{0x207} || s.sti_shadow || s.mov_ss_shadow || s.pending_exception >= 0 || !s.ldtr.unusable())
    return false;
  // Pages with another protection key than 0 are not entered (user_space.cpp); RDPKRU and WRPKRU are exceptions.
  if (s.cr4 & x::cr4_pke && s.pkru & 3) return false;
  if (s.segment[x::cs].selector != user_code || s.segment[x::ss].selector != user_data || s.rip >> 47) return false;
  for (const unsigned i : {x::ds, x::es, x::fs, x::gs})
    if (s.segment[i].selector & ~3 && s.segment[i].selector != user_data) return false;
  return true;
}

bool UserCpu::put_fpu() {
  std::memset(image_, 0, sizeof image_);
  kvm::to_xsave(state_, 7, image_);
  return ::ioctl(fd_.get(), kvm::set_xsave, image_) == 0;
}

bool UserCpu::get_fpu() {
  if (::ioctl(fd_.get(), kvm::get_xsave, image_) < 0) return false;
  const u32 pkru = state_.pkru;
  kvm::from_xsave(image_, state_);
  state_.pkru = pkru;
  return true;
}

void UserCpu::put() {
  const State& s = state_;
  kvm_sync_regs& to = run_->s.regs;
  to.sregs = system_;
  kvm_segment* const segments[] = {&to.sregs.es, nullptr, nullptr, &to.sregs.ds, &to.sregs.fs, &to.sregs.gs};
  for (unsigned i = 0; i < 6; i++)
    if (segments[i]) *segments[i] = kvm::to(s.segment[i]);
  const auto& g = s.gpr;
  to.regs = {.rax = g[0],
             .rbx = g[3],
             .rcx = g[1],
             .rdx = g[2],
             .rsi = g[6],
             .rdi = g[7],
             .rsp = g[4],
             .rbp = g[5],
             .r8 = g[8],
             .r9 = g[9],
             .r10 = g[10],
             .r11 = g[11],
             .r12 = g[12],
             .r13 = g[13],
             .r14 = g[14],
             .r15 = g[15],
             .rip = s.rip,
             .rflags = s.rflags};
  to.events = {};
  run_->kvm_dirty_regs = sync;
}

// State from KVM's registers; of an exception on its way to the kernel, or there, State is that before it. False: nothing to be understood.
bool UserCpu::get() {
  State& s = state_;
  const kvm_sync_regs& from = run_->s.regs;
  const kvm_regs& r = from.regs;
  s.gpr = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  const kvm_segment* const segments[] = {&from.sregs.es, nullptr, nullptr, &from.sregs.ds, &from.sregs.fs, &from.sregs.gs};
  for (unsigned i = 0; i < 6; i++)
    if (segments[i]) s.segment[i] = kvm::from(*segments[i]);
  u64 rip = r.rip, flags = r.rflags;
  u16 code = from.sregs.cs.selector;
  vector_ = -1, code_ = 0, address_ = from.sregs.cr2;
  if ((from.sregs.cs.selector & 3) == 0) {
    // In our page of HLTs, at the first one of a gate or behind it; or where SYSCALL goes.
    const u64 at = rip - (linear + gates);
    if (at < page) {
      vector_ = static_cast<int>(at / gate_bytes);
      const u64 offset = r.rsp - (linear + stack);
      const bool coded = has_code(static_cast<u8>(vector_));
      if (offset > page - (coded ? 48 : 40)) return false;
      const u8* top = private_ + stack + offset;
      if (coded) code_ = load_le<u32>(top), top += 8;
      rip = load_le<u64>(top), code = load_le<u16>(top + 8), flags = load_le<u64>(top + 16), s.gpr[x::rsp] = load_le<u64>(top + 24);
    } else if (rip - (linear + call) < page) {
      rip = linear + call;
    } else {
      return false;
    }
  } else if (from.events.exception.injected || from.events.exception.pending) {
    vector_ = from.events.exception.nr, code_ = from.events.exception.error_code;
  }
  // SYSCALL, with its fault at the target or before that: it is to be done again.
  if (rip == linear + call) {
    rip = s.gpr[x::rcx] - 2, flags = s.gpr[x::r11];
    vector_ = -2;
  }
  s.rip = rip;
  s.rflags = (flags & ~u64{x::flag_rf}) | x::flag_1;
  // Where the guest's code segment is another now, it lies in the same place of every kernel's table that runs such programs.
  if (code != user_code) s.segment[x::cs] = tcg::x86::flat_code(code, false, 3);
  return get_fpu();
}

UserCpu::Left UserCpu::meaning(u8 vector, u32 code) {
  const auto byte_before = [&](u8 wanted, unsigned distance) {
    u64 at = 0;
    u8 byte = 0;
    return tcg::x86::debug_walk(cpu_, state_.rip - distance, 0, at) && vcpu_.memory().read(GuestPhys{at}, {&byte, 1}) && byte == wanted;
  };
  switch (vector) {
    case x::vector_pf: return space_->refused() ? Left::code : Left::fault;
    case x::vector_db:
      if (!(state_.rflags & x::flag_tf) && byte_before(0xf1, 1)) return state_.rip -= 1, Left::exception;
      return state_.rflags & x::flag_tf ? Left::trap : Left::exception;
    case x::vector_bp: state_.rip -= byte_before(0xcc, 1) ? 1 : 2; return Left::exception;
    default: return Left::exception;
  }
}

UserCpu::Left UserCpu::run() {
  replaced_ = true;
  for (;;) {
    const u64 top = space_->refresh();
    if (!top) return Left::trouble;
    system_.cr3 = top;
    std::atomic_ref{run_->immediate_exit}.store(0, std::memory_order_seq_cst);
    if (cpu_.poll.load(std::memory_order_seq_cst) == 0 || tcg::x86::system_of(cpu_).requests.load(std::memory_order_seq_cst))
      return Left::asked;
    if (replaced_ && (!fits() || !put_fpu())) return Left::trouble;
    replaced_ = false;
    put();
    in_guest_.store(true, std::memory_order_seq_cst);
    // The counter is the host's, and KVM may not know how to keep a program from it; the host's kernel can for this thread, which reads
    // none itself meanwhile.
    const bool guarded = space_->counter_read();
    if (guarded && ::prctl(PR_SET_TSC, PR_TSC_SIGSEGV) < 0) return in_guest_.store(false, std::memory_order_seq_cst), Left::trouble;
    const int error = ::ioctl(fd_.get(), KVM_RUN, 0) < 0 ? errno : 0;
    if (guarded) ::prctl(PR_SET_TSC, PR_TSC_ENABLE);
    in_guest_.store(false, std::memory_order_seq_cst);
    if (error && error != EINTR && error != EAGAIN) return Left::trouble;
    if (!get()) {
      vcpu_.machine().run_state().internal_error(
          format("KVM: CPU {}: a program has left its level for {:#x}", vcpu_.index(), run_->s.regs.regs.rip));
      return Left::trouble;
    }
    if (vector_ == -1) return error || run_->exit_reason == KVM_EXIT_INTR ? Left::asked : Left::trouble;
    if (vector_ == -2) return Left::call;
    if (vector_ == x::vector_pf && space_->fill(address_, code_)) continue;
    return meaning(static_cast<u8>(vector_), code_);
  }
}

}  // namespace vmm::both
