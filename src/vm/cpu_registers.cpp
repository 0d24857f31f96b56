#include "src/vm/cpu_registers.h"

#include <algorithm>

#include "src/vm/machine.h"
#include "src/x86/model.h"

namespace vmm::vm {

using namespace x86;

Result<Vcpu*> find_vcpu(unsigned index) {
  Machine* machine = current_machine();
  if (!machine || machine->vcpus().empty()) return fail("No CPU");
  for (const auto& vcpu : machine->vcpus())
    if (vcpu->index() == index) return vcpu.get();
  return fail("Invalid CPU index {}", index);
}

void with_state(Vcpu& vcpu, const std::function<void(State&)>& look) {
  vcpu.run([&] { look(vcpu.state()); });
}

namespace {
constexpr std::string_view gpr_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr std::string_view segment_names[] = {"es", "cs", "ss", "ds", "fs", "gs"};

bool pick(const State& s, std::string_view name, u64& value) {
  for (unsigned i = 0; i < 16; i++) {
    if (name == gpr_names[i]) return value = s.gpr[i], true;
    if (i < 8 && name.size() == 3 && name[0] == 'e' && name.substr(1) == gpr_names[i].substr(1))
      return value = static_cast<u32>(s.gpr[i]), true;
    if (i < 8 && name == gpr_names[i].substr(1)) return value = static_cast<u16>(s.gpr[i]), true;
  }
  for (unsigned i = 0; i < segment_count; i++) {
    if (name == segment_names[i]) return value = s.segment[i].selector, true;
    if (name.starts_with(segment_names[i]) && name.substr(2) == ".base") return value = s.segment[i].base, true;
    if (name.starts_with(segment_names[i]) && name.substr(2) == ".limit") return value = s.segment[i].limit, true;
  }
  const std::pair<std::string_view, u64> others[] = {
      {"rip", s.rip},
      {"eip", static_cast<u32>(s.rip)},
      {"pc", s.rip + s.segment[cs].base},
      {"rflags", s.rflags},
      {"eflags", s.rflags},
      {"efer", s.efer},
      {"cr0", s.cr0},
      {"cr2", s.cr2},
      {"cr3", s.cr3},
      {"cr4", s.cr4},
      {"cr8", s.cr8},
      {"dr0", s.dr[0]},
      {"dr1", s.dr[1]},
      {"dr2", s.dr[2]},
      {"dr3", s.dr[3]},
      {"dr6", s.dr6},
      {"dr7", s.dr7},
      {"gdtr", s.gdtr.base},
      {"idtr", s.idtr.base},
      {"ldtr", s.ldtr.selector},
      {"tr", s.tr.selector},
      {"xcr0", s.xcr0},
      {"mxcsr", s.mxcsr},
      {"kernel_gs_base", s.kernel_gs_base},
  };
  for (const auto& [n, v] : others)
    if (n == name) return value = v, true;
  return false;
}

std::string flag_letters(u64 f) {
  const auto letter = [&](u64 bit, char c) { return f & bit ? c : '-'; };
  return {letter(flag_df, 'D'), letter(flag_of, 'O'), letter(flag_sf, 'S'), letter(flag_zf, 'Z'),
          letter(flag_af, 'A'), letter(flag_pf, 'P'), letter(flag_cf, 'C')};
}

// "DPL=0 CS64 [-RA]": what the descriptor's type says (SDM 3A table 3-1, 3-2).
std::string descriptor_text(const Segment& s, bool long_mode) {
  if (!s.present()) return {};
  std::string out = format(" DPL={} ", s.dpl());
  const unsigned t = s.type();
  if (s.code_or_data()) {
    if (s.code()) {
      out += s.is_long() ? "CS64" : s.big() ? "CS32" : "CS16";
      out += format(" [{}{}", t & 4 ? 'C' : '-', t & 2 ? 'R' : '-');
    } else {
      out += s.big() || long_mode ? "DS  " : "DS16";
      out += format(" [{}{}", t & 4 ? 'E' : '-', t & 2 ? 'W' : '-');
    }
    return out + format("{}]", t & 1 ? 'A' : '-');
  }
  static constexpr std::string_view names[2][16] = {
      {"Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16", "TrapGate16", "Reserved", "TSS32-avl",
       "Reserved", "TSS32-busy", "CallGate32", "Reserved", "IntGate32", "TrapGate32"},
      {"<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved", "TSS64-avl", "Reserved",
       "TSS64-busy", "CallGate64", "Reserved", "IntGate64", "TrapGate64"}};
  return out + std::string{names[long_mode][t]};
}
}  // namespace

Result<u64> read_register(unsigned cpu_index, std::string_view name) {
  Vcpu* vcpu = TRY(find_vcpu(cpu_index));
  u64 value = 0;
  bool known = false;
  with_state(*vcpu, [&](State& s) { known = pick(s, name, value); });
  if (!known) return fail("unknown register");
  return value;
}

std::string describe_state(const x86::State& s, bool wide_cpu) {
  std::string out;
  const bool wide = wide_cpu && s.code64();
  const auto add = [&](std::string_view text, const auto&... args) {
    fmt::vformat_to(std::back_inserter(out), text, fmt::make_format_args(args...));
  };
  const auto address = [&](u64 v) { return wide ? format("{:016x}", v) : format("{:08x}", static_cast<u32>(v)); };
  if (wide) {
    static constexpr std::array<Gpr, 16> order{rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15};
    static constexpr std::string_view shown[] = {"RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP",
                                                 "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15"};
    for (unsigned i = 0; i < 16; i++) add("{}={:016x}{}", shown[i], s.gpr[order[i]], i % 4 == 3 ? "\n" : " ");
    add("RIP={:016x} RFL={:08x}", s.rip, static_cast<u32>(s.rflags));
  } else {
    static constexpr std::array<Gpr, 8> order{rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp};
    static constexpr std::string_view shown[] = {"EAX", "EBX", "ECX", "EDX", "ESI", "EDI", "EBP", "ESP"};
    for (unsigned i = 0; i < 8; i++) add("{}={:08x}{}", shown[i], static_cast<u32>(s.gpr[order[i]]), i % 4 == 3 ? "\n" : " ");
    add("EIP={:08x} EFL={:08x}", static_cast<u32>(s.rip), static_cast<u32>(s.rflags));
  }
  const bool v86 = s.v86();
  add(" [{}] CPL={} II={} A20={} SMM={} HLT={}\n", flag_letters(s.rflags),
      v86                  ? 3
      : s.protected_mode() ? s.cpl()
                           : 0,
      static_cast<int>(s.sti_shadow || s.mov_ss_shadow), static_cast<int>(s.a20), static_cast<int>(s.smm),
      static_cast<int>(s.activity == Activity::halted));
  const auto segment = [&](std::string_view name, const Segment& g) {
    add("{:<3}={:04x} {} {:08x} {:08x}{}\n", name, g.selector, address(g.base), g.limit, u32{g.attributes} << 8,
        s.protected_mode() && !v86 ? descriptor_text(g, s.long_mode()) : std::string{});
  };
  static constexpr std::string_view names[] = {"ES ", "CS ", "SS ", "DS ", "FS ", "GS "};
  for (unsigned i = 0; i < segment_count; i++) segment(names[i], s.segment[i]);
  segment("LDT", s.ldtr);
  segment("TR ", s.tr);
  add("GDT=     {} {:08x}\nIDT=     {} {:08x}\n", address(s.gdtr.base), s.gdtr.limit, address(s.idtr.base), s.idtr.limit);
  add("CR0={:08x} CR2={} CR3={} CR4={:08x}\n", static_cast<u32>(s.cr0), address(s.cr2), address(s.cr3), static_cast<u32>(s.cr4));
  for (unsigned i = 0; i < 4; i++) add("DR{}={:016x} ", i, s.dr[i]);
  add("\nDR6={:016x} DR7={:016x}\nEFER={:016x}\n", s.dr6, s.dr7, s.efer);
  const unsigned top = s.x87.fsw >> 11 & 7;
  add("FCW={:04x} FSW={:04x} [ST={}] FTW={:02x} MXCSR={:08x}\n", s.x87.fcw, s.x87.fsw & ~0x3800, top, s.x87.ftw, s.mxcsr);
  for (unsigned i = 0; i < 8; i++) {
    const auto& st = s.x87.st[(i - top) & 7];  // FPRn is the physical register
    u64 mantissa;
    u16 exponent;
    std::memcpy(&mantissa, st.data(), 8);
    std::memcpy(&exponent, st.data() + 8, 2);
    add("FPR{}={:016x} {:04x}{}", i, mantissa, exponent, i % 2 ? "\n" : " ");
  }
  for (unsigned i = 0; i < (wide ? 16u : 8u); i++)
    add("XMM{:02}={:016x} {:016x}{}", i, s.vector[i].lane[1], s.vector[i].lane[0], i % 2 ? "\n" : " ");
  return out;
}

std::string describe_registers(Vcpu& vcpu) {
  std::string out;
  const bool wide_cpu = vcpu.model().has(CpuFeature::lm);
  with_state(vcpu, [&](State& s) { out = describe_state(s, wide_cpu); });
  return out;
}

}  // namespace vmm::vm
