// See kvm.h.
#include "accel/kvm/kvm.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "accel/kvm/vcpu.h"
#include "src/base/host.h"
#include "src/base/log.h"
#include "src/memory/logging.h"
#include "src/value/field.h"

namespace vmm::kvm {

using vmm::x86::CpuFeature;
using vmm::x86::Word;

constexpr Field KvmAccelerator::properties[] = {
    field<&KvmAccelerator::irqchip_>("kernel-irqchip",
                                     "Interrupt controllers in the kernel: on (all), split (local APICs), off; by itself all that it has."),
};
constinit const TypeInfo KvmAccelerator::type{.name = "kvm-accel",
                                              .doc = "The host's CPU runs guest code, by /dev/kvm.",
                                              .parent = &Accelerator::type,
                                              .properties = properties,
                                              .make = make<KvmAccelerator>,
                                              .user_creatable = false};
static Registered registered{KvmAccelerator::type};

// The kernel logs stores of guest code; device stores mark our own log.
class KvmAccelerator::Log final : public memory::LoggingListener {
 public:
  explicit Log(KvmAccelerator& owner) : owner_(owner) { memory::logging_listener = this; }
  ~Log() override { memory::logging_listener = nullptr; }
  void logging_started(memory::RamBlock&) override { owner_.place_memory(); }
  void logging_stopped(memory::RamBlock&) override { owner_.place_memory(); }
  void harvest(memory::RamBlock& block) override { owner_.harvest(&block); }

 private:
  KvmAccelerator& owner_;
};

KvmAccelerator::KvmAccelerator() = default;
KvmAccelerator::~KvmAccelerator() {
  if (spare_page_) ::munmap(spare_page_, memory::page_bytes);
}

Result<> KvmAccelerator::init(vm::Machine& machine) {
  if (!helper_) machine.debug().limit(KvmCpu::holds);  // in the CPU's debug registers
  kvm_ = Fd{host::open_file("/dev/kvm", O_RDWR)};
  if (!kvm_) {
    const int e = errno;
    return fail("Could not access KVM kernel module: /dev/kvm: {}{}", std::strerror(e),
                e == EACCES ? " (is this user in the group kvm?)" : "");
  }
  if (const int version = ::ioctl(kvm_.get(), KVM_GET_API_VERSION, 0); version != KVM_API_VERSION)
    return fail("this kernel's KVM has API version {}, not {}", version, KVM_API_VERSION);
  for (const auto& [capability, name] : {std::pair{KVM_CAP_USER_MEMORY, "user memory"},
                                         {KVM_CAP_READONLY_MEM, "read-only memory"},
                                         {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
                                         {KVM_CAP_VCPU_EVENTS, "events"},
                                         {KVM_CAP_XSAVE, "XSAVE"},
                                         {KVM_CAP_DEBUGREGS, "debug registers"}})
    if (::ioctl(kvm_.get(), KVM_CHECK_EXTENSION, capability) <= 0) return fail("this kernel's KVM lacks {}", name);
  vm_ = Fd{::ioctl(kvm_.get(), KVM_CREATE_VM, 0)};
  if (!vm_) return fail("KVM makes no virtual machine: {}", std::strerror(errno));
  // An instruction that the kernel does not know is the other engine's at every level; without this, #UD of the program.
  if (kvm_enable_cap all{.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .flags = 0, .args = {1}, .pad = {}};
      helper_ && ::ioctl(kvm_.get(), KVM_CHECK_EXTENSION, KVM_CAP_EXIT_ON_EMULATION_FAILURE) > 0)
    static_cast<void>(::ioctl(vm_.get(), KVM_ENABLE_CAP, &all));
  // Three pages below the firmware that Intel's CPUs want for real mode; and one for its identity map (api.rst, KVM_SET_TSS_ADDR).
  u64 identity = 0xfeff'c000;
  if (::ioctl(vm_.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 || ::ioctl(vm_.get(), KVM_SET_TSS_ADDR, identity + 0x1000) < 0)
    return fail("KVM refuses the address of its own pages: {}", std::strerror(errno));
  TRY(make_irqchip());
  TRY(read_abilities());
  machine_ = &machine;
  if (!helper_) log_ = std::make_unique<Log>(*this);
  machine.memory().on_change([this] { place_memory(); });
  place_memory();
  return {};
}

bool KvmAccelerator::has(int capability) const { return ::ioctl(kvm_.get(), KVM_CHECK_EXTENSION, capability) > 0; }

// What is asked for; or all that the kernel has, as QEMU does. Two engines have to share the board's own.
Result<> KvmAccelerator::make_irqchip() {
  const bool local = has(KVM_CAP_IRQCHIP) && has(KVM_CAP_IRQ_ROUTING) && has(KVM_CAP_SIGNAL_MSI) && has(KVM_CAP_MP_STATE);
  const bool full = local && has(KVM_CAP_PIT2) && has(KVM_CAP_PIT_STATE2), split = local && has(KVM_CAP_SPLIT_IRQCHIP);
  if (irqchip_ == IrqchipForm::automatic)
    irqchip_ = helper_ ? IrqchipForm::off : full ? IrqchipForm::on : split ? IrqchipForm::split : IrqchipForm::off;
  if (irqchip_ == IrqchipForm::off) return {};
  if (!(irqchip_ == IrqchipForm::on ? full : split))
    return fail("kernel-irqchip={} is not what this kernel's KVM has; kernel-irqchip=off needs nothing of it",
                irqchip_ == IrqchipForm::on ? "on" : "split");
  chips_ = TRY(KvmIrqchip::make(vm_.get(), irqchip_));
  const int debugging = ::ioctl(kvm_.get(), KVM_CHECK_EXTENSION, KVM_CAP_SET_GUEST_DEBUG2);
  holds_interrupts_ = debugging > 0 && (static_cast<u32>(debugging) & KVM_GUESTDBG_BLOCKIRQ);
  return {};
}

Result<> KvmAccelerator::read_abilities() {
  supported_.count = cpuid_limit;
  if (::ioctl(kvm_.get(), get_supported_cpuid, &supported_) < 0) return fail("KVM tells no CPU features: {}", std::strerror(errno));
  const auto leaf = [&](u32 function, u32 index, u32 kvm_cpuid_entry2::* reg) -> u32 {
    for (u32 i = 0; i < supported_.count; i++) {
      const kvm_cpuid_entry2& e = supported_.entry[i];
      if (e.function == function && (!(e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e.index == index)) return e.*reg;
    }
    return 0;
  };
  const auto set = [&](Word word, u32 value) { features_.word[static_cast<unsigned>(word)] = value; };
  using E = kvm_cpuid_entry2;
  set(Word::l1_edx, leaf(1, 0, &E::edx)), set(Word::l1_ecx, leaf(1, 0, &E::ecx));
  set(Word::l7_ebx, leaf(7, 0, &E::ebx)), set(Word::l7_ecx, leaf(7, 0, &E::ecx)), set(Word::l7_edx, leaf(7, 0, &E::edx));
  set(Word::l7_1_eax, leaf(7, 1, &E::eax)), set(Word::l7_1_edx, leaf(7, 1, &E::edx));
  set(Word::e1_edx, leaf(0x8000'0001, 0, &E::edx)), set(Word::e1_ecx, leaf(0x8000'0001, 0, &E::ecx));
  set(Word::e7_edx, leaf(0x8000'0007, 0, &E::edx)), set(Word::e8_ebx, leaf(0x8000'0008, 0, &E::ebx));
  set(Word::e21_eax, leaf(0x8000'0021, 0, &E::eax)), set(Word::xsave_eax, leaf(0xd, 1, &E::eax));
  set(Word::l6_eax, leaf(6, 0, &E::eax));
  features_.set(CpuFeature::hypervisor);
  // The kernel's local APIC has these whatever the host's has.
  features_.set(CpuFeature::x2apic, chips_ != nullptr);
  features_.set(CpuFeature::tsc_deadline, chips_ && has(KVM_CAP_TSC_DEADLINE_TIMER));
  // What State does not hold, and what needs a nested hypervisor.
  for (const CpuFeature f : {CpuFeature::vmx,
                             CpuFeature::svm,
                             CpuFeature::mpx,
                             CpuFeature::avx512f,
                             CpuFeature::avx512dq,
                             CpuFeature::avx512ifma,
                             CpuFeature::avx512cd,
                             CpuFeature::avx512bw,
                             CpuFeature::avx512vl,
                             CpuFeature::avx512vbmi,
                             CpuFeature::avx512vbmi2,
                             CpuFeature::avx512vnni,
                             CpuFeature::avx512bitalg,
                             CpuFeature::avx512vpopcntdq,
                             CpuFeature::avx512bf16,
                             CpuFeature::avx512fp16,
                             CpuFeature::avx512vp2intersect,
                             CpuFeature::amx_tile,
                             CpuFeature::amx_bf16,
                             CpuFeature::amx_int8,
                             CpuFeature::amx_fp16,
                             CpuFeature::xfd,
                             CpuFeature::xsaves,
                             CpuFeature::pks,
                             CpuFeature::arch_lbr,
                             CpuFeature::arch_capabilities,
                             CpuFeature::core_capability})
    features_.set(f, false);

  MsrIndexTable index{.count = msr_index_limit};
  if (::ioctl(kvm_.get(), get_msr_index_list, &index) < 0) return fail("KVM tells no MSRs: {}", std::strerror(errno));
  msrs_.assign(index.number, index.number + index.count);
  std::ranges::sort(msrs_);
  return {};
}

bool KvmAccelerator::has_msr(u32 number) const { return std::ranges::binary_search(msrs_, number); }

Result<std::unique_ptr<vm::Vcpu>> KvmAccelerator::make_vcpu(vm::Machine& machine, unsigned index, u32 apic_id,
                                                            const vmm::x86::CpuModel& model) {
  auto vcpu = std::make_unique<KvmVcpu>(*this, machine, index, apic_id, model);
  TRY(vcpu->open());
  return vcpu;
}

void KvmAccelerator::add(KvmCpu& cpu) { vcpus_.push_back(&cpu); }
void KvmAccelerator::remove(KvmCpu& cpu) { std::erase(vcpus_, &cpu); }

// ---- memory

void KvmAccelerator::stop_guest_code() {
  changing_.store(true, std::memory_order_seq_cst);
  for (KvmCpu* v : vcpus_) v->leave_guest();
  for (KvmCpu* v : vcpus_) v->wait_outside();
}

std::vector<KvmAccelerator::Slot> KvmAccelerator::wanted_slots(const memory::FlatView& view) const {
  std::vector<Slot> out;
  constexpr u64 page = memory::page_bytes;
  for (const memory::FlatRange& r : view.ranges()) {
    if (!r.ram) continue;
    // Whole pages only: what shares a page with a device is done one access at a time.
    const u64 first = (r.first + page - 1) & ~(page - 1), end = (r.last + 1) & ~(page - 1);
    if (first < r.first || end <= first || (r.ram_offset + (first - r.first)) % page) continue;
    const u64 offset = r.ram_offset + (first - r.first);
    out.push_back({.at = first,
                   .bytes = end - first,
                   .host = r.ram->host() + offset,
                   .block = r.ram,
                   .block_offset = offset,
                   .read_only = r.read_only,
                   .logged = helper_ || r.ram->dirty_logging_mask() != 0});
  }
  return out;
}

void KvmAccelerator::set_slot(const Slot& slot, bool present) {
  const kvm_userspace_memory_region region{
      .slot = slot.number,
      .flags = (slot.read_only ? u32{KVM_MEM_READONLY} : 0) | (slot.logged ? u32{KVM_MEM_LOG_DIRTY_PAGES} : 0),
      .guest_phys_addr = slot.at,
      .memory_size = present ? slot.bytes : 0,
      .userspace_addr = reinterpret_cast<u64>(slot.host)};
  if (::ioctl(vm_.get(), KVM_SET_USER_MEMORY_REGION, &region) < 0)
    report_error(format("KVM refuses memory at {:#x} ({} bytes): {}", slot.at, slot.bytes, std::strerror(errno)));
}

// Machine lock held. Nobody runs guest code meanwhile: between the end of one slot and the start of the next a fetch would find nothing.
void KvmAccelerator::place_memory() {
  const auto view = machine_->memory().view();
  std::vector<Slot> wanted = wanted_slots(*view), kept, ended;
  for (Slot& w : wanted)
    for (const Slot& s : slots_)
      if (w.same_place(s)) w.number = s.number;
  if (wanted == slots_) return;
  stop_guest_code();
  std::unique_lock lock{slots_mutex_};
  for (const Slot& s : slots_) {
    const auto same = std::ranges::find_if(wanted, [&](const Slot& w) { return w.same_place(s); });
    if (same != wanted.end()) {
      if (same->logged != s.logged) set_slot(*same, true);
      kept.push_back(s);
    } else {
      set_slot(s, false);
      free_numbers_.push_back(s.number);
      if (s.logged) ended.push_back(s);
    }
  }
  for (Slot& w : wanted) {
    if (std::ranges::any_of(kept, [&](const Slot& s) { return w.same_place(s); })) continue;
    if (free_numbers_.empty()) free_numbers_.push_back(next_number_++);
    w.number = free_numbers_.back();
    free_numbers_.pop_back();
    set_slot(w, true);
  }
  slots_ = std::move(wanted);
  lock.unlock();
  changing_.store(false, std::memory_order_seq_cst);
  changing_.notify_all();
  // A log ended with its slot: all of it may have changed.
  for (const Slot& s : ended)
    if (s.block->dirty_logging_mask()) s.block->mark_dirty(s.block_offset, s.bytes);
}

void KvmAccelerator::harvest(memory::RamBlock* only) {
  const Lock lock{slots_mutex_};
  memory::CodeListener* const code = memory::code_listener.load(std::memory_order_acquire);
  for (const Slot& s : slots_) {
    if ((only && s.block != only) || !s.logged || s.read_only) continue;
    const u64 pages = s.bytes / memory::page_bytes;
    std::vector<u64> bitmap((pages + 63) / 64);
    kvm_dirty_log log{.slot = s.number, .padding1 = 0, .dirty_bitmap = bitmap.data()};
    if (::ioctl(vm_.get(), KVM_GET_DIRTY_LOG, &log) < 0) continue;
    for (u64 word = 0; word < bitmap.size(); word++)
      for (u64 bits = bitmap[word]; bits; bits &= bits - 1) {
        const u64 page = word * 64 + static_cast<u64>(std::countr_zero(bits));
        if (page >= pages) break;
        const u64 at = s.block_offset + page * memory::page_bytes;
        s.block->mark_dirty(at, memory::page_bytes);
        if (code) code->ram_written(*s.block, at, memory::page_bytes);
      }
  }
}

// The end of any slot makes the kernel forget all of them (kvm_arch_flush_shadow_memslot): this one lies where no board has anything.
void KvmAccelerator::forget_page_tables() {
  static constexpr u64 nowhere = 0xfeff'b000;
  if (!spare_page_) {
    void* const page = ::mmap(nullptr, memory::page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return;
    spare_page_ = static_cast<u8*>(page);
  } else {
    set_slot({.at = nowhere, .bytes = memory::page_bytes, .host = spare_page_, .read_only = true}, false);
  }
  set_slot({.at = nowhere, .bytes = memory::page_bytes, .host = spare_page_, .read_only = true}, true);
}

}  // namespace vmm::kvm
