// See auto.h.
#include "accel/auto/auto.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "accel/auto/program_vcpu.h"
#include "accel/auto/vcpu.h"
#include "src/base/host.h"
#include "src/base/log.h"
#include "src/control/command.h"
#include "src/memory/logging.h"
#include "src/value/field.h"

namespace vmm::both {

constexpr Field AutoAccelerator::properties[] = {
    field<&AutoAccelerator::irqchip_>("kernel-irqchip", "Interrupt controllers in the kernel: off, two engines share the board's."),
    field<&AutoAccelerator::forced_>(
        "x-hand-over", "Hand over after so many turns in the translator, and so many exits in KVM; 0: when it pays. For tests."),
    field<&AutoAccelerator::programs_always_>(
        "x-programs",
        "Where KVM runs programs only: it gets each one at each return from an interrupt, not only those that it pays for. For tests."),
};
constinit const TypeInfo AutoAccelerator::type{.name = "auto-accel",
                                               .doc = "The host's CPU by /dev/kvm as long as that can and pays, else the translator.",
                                               .parent = &tcg::TcgAccelerator::type,
                                               .properties = properties,
                                               .make = make<AutoAccelerator>,
                                               .user_creatable = false};
static Registered registered{AutoAccelerator::type};

// A dirty log begins, ends or is read: both engines hear of it.
class AutoAccelerator::Log final : public memory::LoggingListener {
 public:
  Log(kvm::KvmAccelerator& kvm, tcg::CodeWatch& watch) : kvm_(kvm), watch_(watch) { memory::logging_listener = this; }
  ~Log() override { memory::logging_listener = nullptr; }
  void logging_started(memory::RamBlock& block) override { watch_.logging_started(block); }
  void harvest(memory::RamBlock& block) override { kvm_.harvest(&block); }

 private:
  kvm::KvmAccelerator& kvm_;
  tcg::CodeWatch& watch_;
};

AutoAccelerator::~AutoAccelerator() = default;

Result<> AutoAccelerator::init(vm::Machine& machine) {
  if (irqchip_ == kvm::IrqchipForm::on || irqchip_ == kvm::IrqchipForm::split)
    return fail("kernel-irqchip={} is not for accel=auto: two engines share the board's interrupt controllers (kernel-irqchip=off)",
                irqchip_ == kvm::IrqchipForm::on ? "on" : "split");
  TRY(TcgAccelerator::init(machine));
  features_ = TcgAccelerator::supported_features();
  if (auto done = start(machine); !done) {
    without_kvm_ = done.error().message;
    report_info(format("accel=auto: {}: this is tcg", without_kvm_));
  }
  return {};
}

Result<> AutoAccelerator::start(vm::Machine& machine) {
  device_ = Fd{host::open_file("/dev/kvm", O_RDWR)};
  if (device_) nanoseconds_an_instruction_ = measure_kvm(device_.get());
  if (device_ && !kvm_pays() && !forced_) {
    auto programs = std::make_unique<UserMachine>();
    TRY(programs->open(device_.get()));
    programs_ = std::move(programs);
    // The CPU's features stay the translator's: a program asks it for them, and what the host lacks is an exception there, which the
    // translator looks at again.
    return {};
  }
  if (machine.config.smp.max_cpus > 1) return fail("with more than one CPU the translator does all");
  Ref<kvm::KvmAccelerator> kvm = make_object<kvm::KvmAccelerator>();
  kvm->make_helper();
  TRY(kvm->init(machine));
  kvm_ = std::move(kvm);
  log_ = std::make_unique<Log>(*kvm_, watch());
  for (usize i = 0; i < features_.word.size(); i++) features_.word[i] &= kvm_->supported_features().word[i];
  return {};
}

Result<std::unique_ptr<vm::Vcpu>> AutoAccelerator::make_vcpu(vm::Machine& machine, unsigned index, u32 apic_id,
                                                             const vmm::x86::CpuModel& model) {
  if (programs_) {
    TRY(start_tier(model));
    auto vcpu = std::make_unique<ProgramVcpu>(*this, machine, index, apic_id, model);
    TRY(vcpu->open());
    program_vcpus_.push_back(vcpu.get());
    return vcpu;
  }
  if (!kvm_) return TcgAccelerator::make_vcpu(machine, index, apic_id, model);
  TRY(start_tier(model));
  auto vcpu = std::make_unique<AutoVcpu>(*this, machine, index, apic_id, model);
  TRY(vcpu->open());
  return vcpu;
}

std::string AutoAccelerator::describe() const {
  static constexpr std::string_view names[cause_count] = {
      "at the start", "patience", "forced",      "instruction unknown to KVM", "state refused by KVM", "event",    "trouble in KVM",
      "debugger",     "mode",     "system call", "fault of the guest's",       "code not for KVM",     "exception"};
  if (!kvm_ && !programs_) return format("auto: {}: tcg\n", without_kvm_);
  const auto count = [](const std::atomic<u64>& a) { return a.load(std::memory_order_relaxed); };
  std::string out = format("auto: kvm and tcg; {}\n", programs_ ? "KVM interprets kernels here: it runs programs"
                                                      : forced_ ? "hand-overs are forced"
                                                                : "KVM first");
  out += format("an instruction of the kernel's under KVM  {:.1f} ns\n", nanoseconds_an_instruction_);
  out += format("time in kvm                  {} ms\n", count(account_.kvm_ns) / 1'000'000);
  out += format("time in tcg                  {} ms\n", count(account_.translator_ns) / 1'000'000);
  out += format("hand-overs to kvm            {}\n", count(account_.to_kvm));
  u64 sum = 0;
  for (const auto& n : account_.to_translator) sum += count(n);
  out += format("hand-overs to tcg            {}\n", sum);
  for (unsigned i = 0; i < cause_count; i++)
    if (const u64 n = count(account_.to_translator[i])) out += format("  {:<26} {}\n", names[i], n);
  u64 fills = 0, rebuilt = 0, refused = 0;
  for (const ProgramVcpu* v : program_vcpus_)
    fills += v->space().fills(), rebuilt += v->space().rebuilt(), refused += v->space().refused_code();
  if (programs_)
    out += format("faults mended in kvm         {}\ntables made anew             {}\npages of code not for kvm    {}\n", fills, rebuilt,
                  refused);
  return out;
}

namespace {
Result<std::string> info_accel(control::Context&, std::span<const std::string>) {
  const vm::Machine* machine = vm::current_machine();
  if (!machine || !machine->has_accelerator()) return fail("No accelerator");
  if (const auto* both = dynamic_cast<const AutoAccelerator*>(&machine->accelerator())) return both->describe();
  return format("{}\n", machine->accelerator().short_name());
}
const control::Registered commands[] = {
    control::Registered{control::human<info_accel>(
        {.human = "info accel", .human_help = "info accel -- show the accelerator, and what went from one engine to the other"})},
};
}  // namespace

}  // namespace vmm::both
