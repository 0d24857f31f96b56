// See tcg.h.
#include "accel/tcg/tcg.h"

#include "accel/tcg/vcpu.h"
#include "src/base/log.h"
#include "src/value/field.h"
#include "src/x86/disassemble.h"

namespace vmm {
template <>
inline constexpr std::array enum_names<tcg::Engine> = {
    EnumNameOf<tcg::Engine>{tcg::Engine::auto_, "auto"}, EnumNameOf<tcg::Engine>{tcg::Engine::interp, "interp"},
    EnumNameOf<tcg::Engine>{tcg::Engine::e1, "e1"}, EnumNameOf<tcg::Engine>{tcg::Engine::e2, "e2"}};
template <>
inline constexpr std::array enum_names<tcg::Threads> = {EnumNameOf<tcg::Threads>{tcg::Threads::multi, "multi"},
                                                        EnumNameOf<tcg::Threads>{tcg::Threads::single, "single"}};
template <>
inline constexpr std::array enum_names<tcg::TableForm> = {EnumNameOf<tcg::TableForm>{tcg::TableForm::auto_, "auto"},
                                                          EnumNameOf<tcg::TableForm>{tcg::TableForm::direct, "direct"},
                                                          EnumNameOf<tcg::TableForm>{tcg::TableForm::tagged, "tagged"}};
}  // namespace vmm

namespace vmm::tcg {

constexpr Field TcgAccelerator::properties[] = {
    field<&TcgAccelerator::engine_>("engine", "Who runs guest code: auto, interp (the interpreter), e1 (the first translator tier)."),
    field<&TcgAccelerator::threads_>("thread", "One host thread a vCPU (multi), or one for all (single)."),
    field<&TcgAccelerator::tables_>("tables", "Form of the address tables: auto, direct, tagged."),
    field<&TcgAccelerator::cache_mib_>("tb-size", "Size of the code cache in MiB; 0: the default.", {.max = 2047}),
    field<&TcgAccelerator::verify_>("verify", "Compare each block of translated code with the interpreter."),
    field<&TcgAccelerator::one_insn_per_tb_>("one-insn-per-tb", "Blocks of one instruction (accepted; no effect)."),
    field<&TcgAccelerator::split_wx_>("split-wx", "Writable and executable views of the code cache are apart, always."),
};
constinit const TypeInfo TcgAccelerator::type{.name = "tcg-accel",
                                              .doc = "The translator: guest code becomes host code.",
                                              .parent = &Accelerator::type,
                                              .properties = properties,
                                              .make = make<TcgAccelerator>,
                                              .user_creatable = false};
static Registered registered{TcgAccelerator::type};

Result<> TcgAccelerator::init(vm::Machine& machine) {
  watch_.on_logging([this](memory::RamBlock&) {
    for (TcgVcpu* vcpu : vcpus_) vcpu->run_quietly([vcpu] { vcpu->flush_writes(); });
  });
  return {};
}

// With the first CPU, whose model says how long addresses are.
Result<> TcgAccelerator::start_tier(const vmm::x86::CpuModel& model) {
  if (std::exchange(asked_, true) || engine_ == Engine::interp) return {};
  const u64 bytes = (cache_mib_ ? cache_mib_ : 256) * MiB;
  const bool la57 = model.has(vmm::x86::CpuFeature::la57);
  if (la57 && tables_ == TableForm::direct) return fail("tables=direct cannot hold the addresses of a CPU with la57; use tables=auto");
  const TableShape shape = la57                           ? TableShape::tagged
                           : tables_ == TableForm::auto_  ? FirstTier::default_shape()
                           : tables_ == TableForm::tagged ? TableShape::tagged
                                                          : FirstTier::direct_shape();
  auto tier = FirstTier::make(store_, bytes, shape, la57 ? long_addresses : short_addresses);
  if (!tier) {
    if (engine_ != Engine::auto_) return std::unexpected(std::move(tier).error());
    report_warning(format("code is interpreted: {}", tier.error().message));
    return {};
  }
  tier_ = std::move(*tier);
  return {};
}

Result<std::unique_ptr<vm::Vcpu>> TcgAccelerator::make_vcpu(vm::Machine& machine, unsigned index, u32 apic_id,
                                                            const vmm::x86::CpuModel& model) {
  TRY(start_tier(model));
  if (verify_) vmm::x86::load_disassembler();  // for what it prints at a difference
  return std::make_unique<TcgVcpu>(*this, machine, index, apic_id, model);
}

const vmm::x86::FeatureWords& TcgAccelerator::supported_features() const {
  static const vmm::x86::FeatureWords words = vmm::x86::tcg_features();
  return words;
}

void TcgAccelerator::add(TcgVcpu& vcpu) { vcpus_.push_back(&vcpu); }
void TcgAccelerator::remove(TcgVcpu& vcpu) { std::erase(vcpus_, &vcpu); }

void TcgAccelerator::drop_writes(TcgVcpu& by, u64 page) {
  CodePage* const words = code_pages().get(page);
  if (!words) return;
  const u64 writers = words->writers.exchange(0, std::memory_order_seq_cst);
  by.drop_writes(page);
  for (TcgVcpu* vcpu : vcpus_)
    if (vcpu != &by && writers >> (vcpu->index() % 64) & 1) vcpu->run_quietly([vcpu, page] { vcpu->drop_writes(page); });
  words->fills.store(0, std::memory_order_seq_cst);
}

void TcgAccelerator::exclusive(TcgVcpu& by, bool in) {
  if (in) {
    by.park();
    exclusive_.lock();
    for (TcgVcpu* vcpu : vcpus_)
      if (vcpu != &by) vcpu->hold();
    by.unpark();
    return;
  }
  for (TcgVcpu* vcpu : vcpus_)
    if (vcpu != &by) vcpu->let_go();
  exclusive_.unlock();
}

std::string TcgAccelerator::describe_jit() const {
  std::string out = format("engine                {}\n", tier_ ? "e1" : "interp");
  out += format("blocks kept           {}\n", store_.size());
  u64 blocks = 0, interrupts = 0, exceptions = 0;
  for (const TcgVcpu* v : vcpus_)
    blocks += v->blocks(), interrupts += v->system().interrupts_taken, exceptions += v->system().exceptions_taken;
  out += format("turns of the loop     {}\n", blocks);
  out += format("interrupts taken      {}\n", interrupts);
  out += format("events delivered      {}\n", exceptions);
  if (tier_) {
#define X(name, text) out += format("{:<52} {}\n", text, tier_->counters().name.load(std::memory_order_relaxed));
    FIRST_TIER_COUNTERS(X)
#undef X
    out += format("{:<52} {}\n", "bytes of code and its records in use", tier_->cache_bytes_in_use());
    for (const TcgVcpu* v : vcpus_) out += format("{:<52} {}\n", format("CPU {}: bytes of address tables", v->index()), v->table_bytes());
  }
  return out;
}

}  // namespace vmm::tcg
