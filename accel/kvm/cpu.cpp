// See cpu.h. The loop around KVM_RUN, requests, interrupts, and the accesses that the kernel hands to us.
// Source: Linux, Documentation/virt/kvm/api.rst §4.10 and §5.
#include "accel/kvm/cpu.h"

#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::kvm {

using vm::Request;
using vmm::x86::Activity;
using vmm::x86::State;

namespace {
constexpr u32 bit_of(Request r) { return static_cast<u32>(r); }
constexpr u32 events_of_the_helper = bit_of(Request::nmi) | bit_of(Request::smi) | bit_of(Request::init) | bit_of(Request::sipi) |
                                     bit_of(Request::mce) | bit_of(Request::flush);
constexpr u32 not_the_cpus = bit_of(Request::stop) | bit_of(Request::work) | bit_of(Request::exit);

}  // namespace

int KvmCpu::kick_signal() { return SIGRTMIN + 1; }
void KvmCpu::catch_kicks() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    sigaction(kick_signal(), &action, nullptr);
  });
}

KvmCpu::KvmCpu(KvmAccelerator& accelerator, vm::ThreadedVcpu& vcpu, std::atomic<u32>& requests)
    : accelerator_(accelerator),
      vcpu_(vcpu),
      state_(vcpu.state()),
      requests_(requests),
      helper_(accelerator.helper()),
      apic_in_kernel_(accelerator.irqchip() != nullptr) {
  accelerator_.add(*this);
}

KvmCpu::~KvmCpu() {
  accelerator_.remove(*this);
  if (run_) ::munmap(run_, run_bytes_);
}

Result<> KvmCpu::open() {
  catch_kicks();
  fd_ = Fd{::ioctl(accelerator_.vm(), KVM_CREATE_VCPU, static_cast<unsigned long>(apic_id()))};
  if (!fd_) return fail("KVM makes no CPU {}: {}", index(), std::strerror(errno));
  const int bytes = ::ioctl(accelerator_.kvm(), KVM_GET_VCPU_MMAP_SIZE, 0);
  void* const at = bytes > 0 ? ::mmap(nullptr, static_cast<usize>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0) : MAP_FAILED;
  if (at == MAP_FAILED) return fail("the page shared with KVM's CPU {} cannot be had: {}", index(), std::strerror(errno));
  run_ = static_cast<kvm_run*>(at), run_bytes_ = static_cast<usize>(bytes);
  if (const int n = ::ioctl(accelerator_.vm(), KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2); n > 4096) xsave_bytes_ = static_cast<usize>(n);
  if (const int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0); khz > 0) tsc_hz_ = static_cast<u64>(khz) * 1000;
  return set_cpuid();
}

Result<> KvmCpu::set_cpuid() {
  auto table = std::make_unique<CpuidTable>();
  const vm::Topology& smp = machine().config.smp;
  vmm::x86::CpuidInput in{.apic_id = apic_id(), .topology = {smp.sockets, smp.dies, smp.cores, smp.threads}};
  const auto add = [&](u32 leaf, u32 subleaf, bool indexed) {
    in.leaf = leaf, in.subleaf = subleaf;
    vmm::x86::CpuidResult r = vmm::x86::cpuid(model(), in);
    // The kernel adds OSXSAVE and OSPKE by itself.
    if (table->count < cpuid_limit)
      table->entry[table->count++] = {.function = leaf,
                                      .index = subleaf,
                                      .flags = indexed ? u32{KVM_CPUID_FLAG_SIGNIFCANT_INDEX} : 0,
                                      .eax = r.eax,
                                      .ebx = r.ebx,
                                      .ecx = r.ecx,
                                      .edx = r.edx};
    return r;
  };
  for (u32 leaf = 0; leaf <= model().level; leaf++) {
    switch (leaf) {
      case 4:
        for (u32 i = 0; add(leaf, i, true).eax & 31; i++) {
        }
        break;
      case 7:
        for (u32 i = 0, last = add(leaf, 0, true).eax; i < last && i < 8; i++) add(leaf, i + 1, true);
        break;
      case 0xb:
        for (u32 i = 0; add(leaf, i, true).ecx >> 8 & 0xff; i++) {
        }
        break;
      case 0xd:
        for (u32 i = 0; i < 63; i++) add(leaf, i, true);
        break;
      default: add(leaf, 0, false);
    }
  }
  // Whose paravirtual leaves these are: the kernel's form of them, with no feature of its own.
  if (helper_) {
    add(0x4000'0000, 0, false), add(0x4000'0001, 0, false);
  } else if (model().announce_vmm && model().has(vmm::x86::CpuFeature::hypervisor)) {
    u32 name[3];
    std::memcpy(name, "KVMKVMKVM\0\0\0", 12);
    table->entry[table->count++] = {.function = 0x4000'0000, .eax = 0x4000'0001, .ebx = name[0], .ecx = name[1], .edx = name[2]};
    table->entry[table->count++] = {.function = 0x4000'0001};
  }
  for (u32 leaf = 0x8000'0000; leaf <= model().xlevel && leaf < 0x8000'0100; leaf++) {
    if (leaf == 0x8000'001d)
      for (u32 i = 0; add(leaf, i, true).eax & 31; i++) {
      }
    else
      add(leaf, 0, false);
  }
  if (::ioctl(fd_.get(), set_cpuid2, table.get()) < 0) return fail("KVM refuses this CPU model: {}", std::strerror(errno));
  return {};
}

// ---- reached from other threads

void KvmCpu::leave_guest() {
  // The kernel looks at the byte at each entry; a thread that is inside already is brought out by the signal.
  std::atomic_ref{run_->immediate_exit}.store(1, std::memory_order_seq_cst);
  if (!in_guest_.load(std::memory_order_seq_cst)) return;
  if (const int thread = vcpu_.host_thread_id(); thread > 0) ::syscall(SYS_tgkill, ::getpid(), thread, kick_signal());
}

u64 KvmCpu::ticks() const {
  const auto ns = static_cast<u64>(machine().time_domain().now(Clock::guest).count());
  return static_cast<u64>(static_cast<u128>(ns) * tsc_hz_ / 1'000'000'000);
}

// Reading the kernel's counter would wait for the guest to leave, so it is computed: offset and rate are those of the last exchange.
u64 KvmCpu::read_tsc() { return ticks() + state_.tsc_offset; }

void KvmCpu::take_over() {
  fetched_ = dirty_ = true;
  io_open_ = false;
  accepted_ = -1;
  accelerator_.forget_page_tables();
}

Result<GuestPhys> KvmCpu::translate(GuestVirt address) {
  complete_state();
  if (dirty_) {
    TRY(put_registers());
    dirty_ = false;
  }
  kvm_translation t{.linear_address = address.value};
  if (::ioctl(fd_.get(), KVM_TRANSLATE, &t) < 0 || !t.valid) return fail("no translation for {:#x}", address.value);
  return GuestPhys{t.physical_address};
}

void KvmCpu::complete_state() {
  if (fetched_) return;
  if (dirty_) {  // changed in the midst of an access, as below
    if (auto put = put_registers(); !put) report_error(format("CPU {}: {}", index(), put.error().message));
    dirty_ = false;
  }
  // While a device answers, the instruction has not been carried out: State is that before it, and the kernel ends it with the next entry,
  // on what State is then.
  if (!answering_) finish_io();
  if (auto got = get_registers(); !got) report_error(format("CPU {}: {}", index(), got.error().message));
  fetched_ = !answering_;
}

bool KvmCpu::wanted() const {
  if (apic_in_kernel_) return state_.activity != Activity::shutdown;
  return state_.activity == Activity::running ||
         (state_.activity == Activity::halted && interrupts() && run_->if_flag && interrupts()->pending());
}

// ---- the loop

bool KvmCpu::fails(Left left, std::string why) {
  left_ = left, why_ = std::move(why);
  return false;
}

// INIT, SIPI and HLT are the kernel's business.
bool KvmCpu::take_kernels_requests() {
  const u32 asked = requests_.fetch_and(not_the_cpus, std::memory_order_acq_rel);
  if (state_.activity == Activity::shutdown) return false;
  if (asked & bit_of(Request::nmi) && ::ioctl(fd_.get(), KVM_NMI, 0) < 0)
    return fails(Left::internal_error, format("no NMI: {}", std::strerror(errno)));
  return true;
}

bool KvmCpu::take_requests() {
  if (apic_in_kernel_) return take_kernels_requests();
  const auto take = [&](Request r) { return (requests_.fetch_and(~bit_of(r), std::memory_order_acq_rel) & bit_of(r)) != 0; };
  if (helper_ && requests_.load(std::memory_order_acquire) & events_of_the_helper) {
    left_ = Left::event;
    return false;
  }
  if (take(Request::init)) {
    complete_state();
    const bool bootstrap = interrupts() ? (interrupts()->base_msr() & 0x100) != 0 : index() == 0;
    vmm::x86::reset(state_, true, bootstrap);
    accepted_ = -1;
    state_.gpr[vmm::x86::rdx] = vmm::x86::cpuid(model(), {.leaf = 1}).eax;
    if (interrupts()) interrupts()->reset(true);
    dirty_ = true;
  }
  if (take(Request::sipi) && state_.activity == Activity::wait_for_sipi) {
    complete_state();
    const u8 vector = vcpu_.take_sipi_vector();
    state_.segment[vmm::x86::cs].selector = static_cast<u16>(vector << 8);
    state_.segment[vmm::x86::cs].base = u64{vector} << 12;
    state_.rip = 0;
    state_.activity = Activity::running;
    dirty_ = true;
  }
  if (state_.activity == Activity::wait_for_sipi || state_.activity == Activity::shutdown) {
    requests_.fetch_and(not_the_cpus);
    return false;
  }
  if (take(Request::nmi)) {
    if (::ioctl(fd_.get(), KVM_NMI, 0) < 0) return fails(Left::internal_error, format("no NMI: {}", std::strerror(errno)));
    state_.activity = Activity::running;
  }
  for (const Request r : {Request::interrupt, Request::smi, Request::mce, Request::flush}) take(r);  // looked at where they count
  if (state_.activity == Activity::halted) {
    if (!wanted()) return false;
    state_.activity = Activity::running;
  }
  return true;
}

void KvmCpu::offer_interrupt() {
  vm::LocalInterrupts* const local = interrupts();
  if (!local) return;
  run_->request_interrupt_window = 0;
  if (!local->pending()) return;
  if (ready_) {
    const int vector = local->acknowledge();
    ready_ = false;
    if (vector >= 0) inject(static_cast<u8>(vector));
    if (!local->pending()) return;
  }
  run_->request_interrupt_window = 1;  // it leaves guest code as soon as it would take one
}

void KvmCpu::inject(u8 vector) {
  const kvm_interrupt interrupt{.irq = vector};
  if (!apic_in_kernel_) {
    if (::ioctl(fd_.get(), KVM_INTERRUPT, &interrupt) < 0) report_error(format("KVM takes no interrupt: {}", std::strerror(errno)));
    return;
  }
  // The board's PIC beside the kernel's local APIC: the same call would leave the vector where nobody can read it, so that it would be lost
  // when the machine is saved before it is delivered. As an event it can be read.
  kvm_vcpu_events events{};
  kvm_mp_state running{.mp_state = KVM_MP_STATE_RUNNABLE};
  bool done = ::ioctl(fd_.get(), KVM_GET_VCPU_EVENTS, &events) == 0;
  events.interrupt.injected = 1, events.interrupt.nr = vector, events.interrupt.soft = 0;
  done = done && ::ioctl(fd_.get(), KVM_SET_VCPU_EVENTS, &events) == 0 && ::ioctl(fd_.get(), KVM_SET_MP_STATE, &running) == 0;
  if (!done) report_error(format("KVM takes no interrupt: {}", std::strerror(errno)));
}

int KvmCpu::enter() {
  in_guest_.store(true, std::memory_order_seq_cst);
  // Requests that came before the flag was up are in the byte or in the word; those after it send the signal.
  int error = 0;
  if (accelerator_.changing().load(std::memory_order_seq_cst))
    error = EINTR;
  else if (::ioctl(fd_.get(), KVM_RUN, 0) < 0)
    error = errno;
  in_guest_.store(false, std::memory_order_seq_cst);
  if (accelerator_.changing().load(std::memory_order_seq_cst)) {
    in_guest_.notify_all();
    accelerator_.changing().wait(true, std::memory_order_seq_cst);
  }
  return error;
}

// An access that we have answered counts when the kernel is entered again; so that State is that after the instruction. One that the kernel
// has cut in pieces goes on with the next piece.
void KvmCpu::finish_io() {
  while (io_open_) {
    io_open_ = false;
    std::atomic_ref{run_->immediate_exit}.store(1, std::memory_order_seq_cst);
    if (::ioctl(fd_.get(), KVM_RUN, 0) < 0) return;
    if (run_->exit_reason == KVM_EXIT_IO || run_->exit_reason == KVM_EXIT_MMIO) answer();
  }
}

KvmCpu::Left KvmCpu::run(u64 exits) {
  const Left left = run_planted(exits);
  lift();
  return left;
}

KvmCpu::Left KvmCpu::run_planted(u64 exits) {
  left_ = Left::asked;
  for (;;) {
    std::atomic_ref{run_->immediate_exit}.store(0, std::memory_order_seq_cst);
    if (requests_.load(std::memory_order_seq_cst) & not_the_cpus) return Left::asked;
    if (!take_requests()) return left_;
    if (exits-- == 0) return Left::enough;
    if (dirty_) {
      if (auto put = put_registers(); !put) {
        fails(Left::refused, put.error().message);
        return left_;
      }
      dirty_ = false, ready_ = false;
      debug_due_ |= step_;  // a step counts from where rip is when it is asked for
    }
    if (debug_due_)
      if (auto put = put_debug(); !put) {
        fails(Left::internal_error, put.error().message);
        return left_;
      }
    for (const auto& [linear, at] : planted_) accelerator_.planted().renew(memory(), at);
    if (!hold_interrupts_) offer_interrupt();
    const bool apic = interrupts() && !apic_in_kernel_;
    const u8 tpr = apic ? interrupts()->tpr() : 0;
    if (apic) run_->cr8 = tpr >> 4, run_->apic_base = interrupts()->base_msr();
    const int error = enter();
    fetched_ = false, io_open_ = false;
    ready_ = run_->ready_for_interrupt_injection;
    apic_base_ = run_->apic_base, cr8_ = run_->cr8;
    if (apic) {
      if (run_->cr8 != static_cast<u64>(tpr >> 4)) interrupts()->set_tpr(static_cast<u8>(run_->cr8 << 4));
      if (run_->apic_base != interrupts()->base_msr()) interrupts()->set_base_msr(run_->apic_base);
    }
    if (error == EINTR || error == EAGAIN) continue;
    if (error) {
      fails(Left::internal_error, format("KVM_RUN: {}", std::strerror(error)));
      return left_;
    }
    if (!handle_exit()) return left_;
  }
}

bool KvmCpu::handle_exit() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
    case KVM_EXIT_MMIO: answer(); return true;
    case KVM_EXIT_HLT: state_.activity = Activity::halted; return true;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR: return true;
    case KVM_EXIT_IOAPIC_EOI:
      if (interrupts()) interrupts()->ended(run_->eoi.vector);
      return true;
    case KVM_EXIT_SHUTDOWN:
      complete_state();
      state_.activity = Activity::shutdown;
      machine().run_state().request_reset(vm::Cause::guest_reset);
      return false;
    case KVM_EXIT_FAIL_ENTRY:
      return fails(Left::refused, format("the hardware refuses to enter (reason {:#x})", run_->fail_entry.hardware_entry_failure_reason));
    case KVM_EXIT_INTERNAL_ERROR: {
      complete_state();
      std::string bytes;
      if (run_->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
        const u64 linear = linear_rip();
        if (met_planted(linear)) return false;  // int3 too is an instruction that it may not know
        u8 code[15] = {};
        for (u64 i = 0; i < sizeof code; i++) {
          kvm_translation t{.linear_address = linear + i};
          if (::ioctl(fd_.get(), KVM_TRANSLATE, &t) < 0 || !t.valid || !memory().read(GuestPhys{t.physical_address}, {&code[i], 1})) break;
        }
        for (const u8 b : code) bytes += format(" {:02x}", b);
        return fails(Left::emulation, format("the kernel cannot execute the instruction at {:#x}:{}", state_.rip, bytes));
      }
      return fails(Left::internal_error, format("internal error {} of the kernel", static_cast<u32>(run_->internal.suberror)));
    }
    case KVM_EXIT_DEBUG: return debug_exit();
    case KVM_EXIT_SYSTEM_EVENT: machine().run_state().request_reset(vm::Cause::guest_reset); return true;
    default: return fails(Left::internal_error, format("an exit for the unknown reason {}", static_cast<u32>(run_->exit_reason)));
  }
}

void KvmCpu::answer() {
  answering_ = true;
  run_->exit_reason == KVM_EXIT_IO ? port_io() : mmio();
  answering_ = false, io_open_ = true;
}

void KvmCpu::port_io() {
  u8* at = reinterpret_cast<u8*>(run_) + run_->io.data_offset;
  const unsigned size = run_->io.size;
  const GuestPhys port{run_->io.port};
  for (u32 i = 0; i < run_->io.count; i++, at += size) {
    u64 value = 0;
    if (run_->io.direction == KVM_EXIT_IO_OUT) {
      std::memcpy(&value, at, size);
      ports().store(port, size, value);
    } else {
      value = ports().load(port, size);
      std::memcpy(at, &value, size);
    }
  }
}

void KvmCpu::mmio() {
  const u64 at = run_->mmio.phys_addr;
  const u32 size = run_->mmio.len;
  u64 value = 0;
  if (run_->mmio.is_write) std::memcpy(&value, run_->mmio.data, size);
  // The page of the local APIC lies before everything else.
  const u64 base = interrupts() && !apic_in_kernel_ ? interrupts()->base_msr() : 0;
  if (base & 0x800 && (at & ~u64{0xfff}) == (base & ~u64{0xfff})) {
    const u32 offset = at & 0xfff;
    if (run_->mmio.is_write) {
      if (size == 4 && offset % 4 == 0) interrupts()->write_page(offset, static_cast<u32>(value));
    } else {
      value = u64{interrupts()->read_page(offset & ~3u)} >> (8 * (offset & 3));
      std::memcpy(run_->mmio.data, &value, size);
    }
    return;
  }
  const bool natural = std::has_single_bit(size) && at % size == 0;
  if (run_->mmio.is_write) {
    if (natural)
      memory().store(GuestPhys{at}, size, value);
    else
      memory().write(GuestPhys{at}, {run_->mmio.data, size});
    return;
  }
  if (natural) {
    value = memory().load(GuestPhys{at}, size);
    std::memcpy(run_->mmio.data, &value, size);
  } else {
    std::memset(run_->mmio.data, 0xff, size);
    memory().read(GuestPhys{at}, {run_->mmio.data, size});
  }
}

}  // namespace vmm::kvm
