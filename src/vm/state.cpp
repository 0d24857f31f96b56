// See state.h. The machine's own sections: its clock and its CPUs.
#include "src/vm/state.h"

#include <algorithm>

#include "src/vm/machine.h"
#include "src/x86/model.h"

namespace vmm {

using x86::State;

template <>
inline constexpr std::array fields<x86::Segment> = {
    field<&x86::Segment::selector>("selector", {}),
    field<&x86::Segment::attributes>("attributes", {}),
    field<&x86::Segment::limit>("limit", {}),
    field<&x86::Segment::base>("base", {}),
};
template <>
inline constexpr std::array fields<x86::TableRegister> = {
    field<&x86::TableRegister::base>("base", {}),
    field<&x86::TableRegister::limit>("limit", {}),
};
template <>
inline constexpr std::array fields<x86::VectorRegister> = {field<&x86::VectorRegister::lane>("lanes", {})};
template <>
inline constexpr std::array fields<x86::X87Image> = {
    field<&x86::X87Image::fcw>("fcw", {}), field<&x86::X87Image::fsw>("fsw", {}), field<&x86::X87Image::ftw>("ftw", {}),
    field<&x86::X87Image::fop>("fop", {}), field<&x86::X87Image::fip>("fip", {}), field<&x86::X87Image::fdp>("fdp", {}),
    field<&x86::X87Image::st>("st", {}),
};
template <>
inline constexpr std::array enum_names<x86::Activity> = {EnumNameOf<x86::Activity>{x86::Activity::running, "running"},
                                                         EnumNameOf<x86::Activity>{x86::Activity::halted, "halted"},
                                                         EnumNameOf<x86::Activity>{x86::Activity::wait_for_sipi, "wait-for-sipi"},
                                                         EnumNameOf<x86::Activity>{x86::Activity::shutdown, "shutdown"}};
template <>
inline constexpr std::array fields<State> = {
    field<&State::gpr>("gpr", "general registers, in the order of their encoding"),
    field<&State::rip>("rip", {}),
    field<&State::rflags>("rflags", {}),
    field<&State::segment>("segments", "es cs ss ds fs gs"),
    field<&State::ldtr>("ldtr", {}),
    field<&State::tr>("tr", {}),
    field<&State::gdtr>("gdtr", {}),
    field<&State::idtr>("idtr", {}),
    field<&State::cr0>("cr0", {}),
    field<&State::cr2>("cr2", {}),
    field<&State::cr3>("cr3", {}),
    field<&State::cr4>("cr4", {}),
    field<&State::cr8>("cr8", {}),
    field<&State::efer>("efer", {}),
    field<&State::xcr0>("xcr0", {}),
    field<&State::dr>("dr", {}),
    field<&State::dr6>("dr6", {}),
    field<&State::dr7>("dr7", {}),
    field<&State::vector>("vectors", {}),
    field<&State::mxcsr>("mxcsr", {}, {.max = 0xffff}),
    field<&State::pkru>("pkru", {}),
    field<&State::x87>("x87", {}),
    field<&State::star>("star", {}),
    field<&State::lstar>("lstar", {}),
    field<&State::cstar>("cstar", {}),
    field<&State::sfmask>("sfmask", {}),
    field<&State::kernel_gs_base>("kernel-gs-base", {}),
    field<&State::sysenter_cs>("sysenter-cs", {}),
    field<&State::sysenter_esp>("sysenter-esp", {}),
    field<&State::sysenter_eip>("sysenter-eip", {}),
    field<&State::pat>("pat", {}),
    field<&State::tsc_aux>("tsc-aux", {}),
    field<&State::misc_enable>("misc-enable", {}),
    field<&State::spec_ctrl>("spec-ctrl", {}),
    field<&State::xss>("xss", {}),
    field<&State::tsc_offset>("tsc-offset", "the counter less the guest clock, in nanoseconds"),
    field<&State::tsc_adjust>("tsc-adjust", {}),
    field<&State::tsc_deadline>("tsc-deadline", {}),
    field<&State::mtrr_def_type>("mtrr-def-type", {}),
    field<&State::mtrr_fixed>("mtrr-fixed", {}),
    field<&State::mtrr_base>("mtrr-base", {}),
    field<&State::mtrr_mask>("mtrr-mask", {}),
    field<&State::mcg_status>("mcg-status", {}),
    field<&State::mcg_ctl>("mcg-ctl", {}),
    field<&State::mc_bank>("mc-banks", {}),
    field<&State::smbase>("smbase", {}),
    field<&State::pae_pdpte>("pae-pdpte", {}),
    field<&State::activity>("activity", {}),
    field<&State::smm>("smm", {}),
    field<&State::a20>("a20", {}),
    field<&State::nmi_blocked>("nmi-blocked", {}),
    field<&State::nmi_pending>("nmi-pending", {}),
    field<&State::smi_pending>("smi-pending", {}),
    field<&State::init_pending>("init-pending", {}),
    field<&State::sipi_pending>("sipi-pending", {}),
    field<&State::sipi_vector>("sipi-vector", {}),
    field<&State::sti_shadow>("sti-shadow", {}),
    field<&State::mov_ss_shadow>("mov-ss-shadow", {}),
    field<&State::pending_exception>("pending-exception", {}, {.min = -1, .max = 31}),
    field<&State::pending_has_code>("pending-has-code", {}),
    field<&State::pending_code>("pending-code", {}),
};

namespace vm {

namespace {

struct Source {
  int order;
  void (*add)(Machine&, StateSections&);
};
std::vector<Source>& sources() {
  static std::vector<Source> list;
  return list;
}

// What no CPU could be in. Engines may rely on the rest being merely unusual.
Result<> possible(const State& s, const x86::CpuModel& model) {
  using namespace x86;
  const auto wrong = [](std::string_view what, u64 value) { return fail("'{}' has the impossible value {:#x}", what, value); };
  if ((s.cr0 & cr0_pg) && !(s.cr0 & cr0_pe)) return wrong("cr0", s.cr0);
  if (s.long_mode() != ((s.efer & efer_lme) && (s.cr0 & cr0_pg))) return wrong("efer", s.efer);
  if (s.long_mode() && !(s.cr4 & cr4_pae)) return wrong("cr4", s.cr4);
  if (s.efer & ~u64{efer_sce | efer_lme | efer_lma | efer_nxe | efer_svme | efer_ffxsr}) return wrong("efer", s.efer);
  if (!(s.rflags & flag_1) || s.rflags >> 22) return wrong("rflags", s.rflags);
  if (!(s.xcr0 & 1) || s.xcr0 & ~xcr0_mask(model)) return wrong("xcr0", s.xcr0);
  if (s.cr8 > 15) return wrong("cr8", s.cr8);
  return {};
}

u64 guest_clock(Vcpu& vcpu) { return static_cast<u64>(vcpu.machine().time_domain().now(Clock::guest).count()); }

Result<> load_cpu(Vcpu& vcpu, const Value& value) {
  State s;
  TRY(Codec<State>::from_value(s, value, "state", {}));
  TRY(possible(s, vcpu.model()));
  vcpu.run([&] {
    vcpu.state() = s;
    // Whatever rate this engine's counter has: it goes on from where it was.
    vcpu.state().tsc_offset += guest_clock(vcpu) + s.tsc_offset - vcpu.read_tsc();
  });
  return {};
}
Value save_cpu(Vcpu& vcpu) {
  Value value;
  vcpu.run([&] {
    State s = vcpu.state();
    s.tsc_offset = vcpu.read_tsc() - guest_clock(vcpu);
    value = Codec<State>::to_value(s);
  });
  return value;
}

void add_own(Machine& machine, StateSections& out) {
  out.sections.push_back({"clock",
                          [&machine] { return Value::object().set("nanoseconds", machine.time_domain().now(Clock::guest).count()); },
                          [&machine](const Value& v) -> Result<> {
                            const Value* ns = v.find("nanoseconds");
                            if (!ns) return fail("'nanoseconds' is missing");
                            const i64 n = TRY(ns->as_i64("nanoseconds"));
                            if (n < 0) return fail("'nanoseconds' is negative");
                            machine.time_domain().set_guest_clock(Nanoseconds{n});
                            return {};
                          }});
}
void add_cpus(Machine& machine, StateSections& out) {
  for (const auto& vcpu : machine.vcpus()) {
    Vcpu* const v = vcpu.get();
    out.sections.push_back(
        {format("cpu/{}", v->index()), [v] { return save_cpu(*v); }, [v](const Value& value) { return load_cpu(*v, value); }});
  }
}
const RegisteredStateSource own{0, add_own}, cpus{100, add_cpus};

}  // namespace

RegisteredStateSource::RegisteredStateSource(int order, void (*add)(Machine&, StateSections&)) {
  auto& list = sources();
  list.insert(std::ranges::upper_bound(list, order, {}, &Source::order), Source{order, add});
}

StateSections state_sections(Machine& machine) {
  StateSections out;
  for (const Source& s : sources()) s.add(machine, out);
  return out;
}

}  // namespace vm
}  // namespace vmm
