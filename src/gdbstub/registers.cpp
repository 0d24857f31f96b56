#include "src/gdbstub/registers.h"

#include <bit>
#include <cstring>

#include "src/base/bits.h"
#include "src/base/format.h"
#include "src/x86/model.h"

namespace vmm::gdb {

using namespace x86;

namespace {

constexpr std::string_view wide_names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
constexpr Gpr wide_order[] = {rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15};
constexpr std::string_view narrow_names[] = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
constexpr Gpr narrow_order[] = {rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi};
constexpr std::pair<std::string_view, SegmentRegister> segments[] = {{"cs", cs}, {"ss", ss}, {"ds", ds},
                                                                     {"es", es}, {"fs", fs}, {"gs", gs}};
constexpr std::string_view x87_names[] = {"fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"};

constexpr std::string_view core_types = R"(<flags id="i386_eflags" size="4">
<field name="" start="22" end="31"/><field name="ID" start="21" end="21"/><field name="VIP" start="20" end="20"/>
<field name="VIF" start="19" end="19"/><field name="AC" start="18" end="18"/><field name="VM" start="17" end="17"/>
<field name="RF" start="16" end="16"/><field name="" start="15" end="15"/><field name="NT" start="14" end="14"/>
<field name="IOPL" start="12" end="13"/><field name="OF" start="11" end="11"/><field name="DF" start="10" end="10"/>
<field name="IF" start="9" end="9"/><field name="TF" start="8" end="8"/><field name="SF" start="7" end="7"/>
<field name="ZF" start="6" end="6"/><field name="" start="5" end="5"/><field name="AF" start="4" end="4"/>
<field name="" start="3" end="3"/><field name="PF" start="2" end="2"/><field name="" start="1" end="1"/><field name="CF" start="0" end="0"/>
</flags>)";
constexpr std::string_view sse_types = R"(<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/><vector id="v4i32" type="int32" count="4"/>
<vector id="v2i64" type="int64" count="2"/>
<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/><field name="v16_int8" type="v16i8"/>
<field name="v8_int16" type="v8i16"/><field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/></union>
<flags id="i386_mxcsr" size="4"><field name="IE" start="0" end="0"/><field name="DE" start="1" end="1"/><field name="ZE" start="2" end="2"/>
<field name="OE" start="3" end="3"/><field name="UE" start="4" end="4"/><field name="PE" start="5" end="5"/>
<field name="DAZ" start="6" end="6"/><field name="IM" start="7" end="7"/><field name="DM" start="8" end="8"/>
<field name="ZM" start="9" end="9"/><field name="OM" start="10" end="10"/><field name="UM" start="11" end="11"/>
<field name="PM" start="12" end="12"/><field name="FZ" start="15" end="15"/></flags>)";

struct Flag {
  std::string_view name;
  unsigned first, last;
};
constexpr Flag cr0_flags[] = {{"PG", 31, 31}, {"CD", 30, 30}, {"NW", 29, 29}, {"AM", 18, 18}, {"WP", 16, 16}, {"NE", 5, 5},
                              {"ET", 4, 4},   {"TS", 3, 3},   {"EM", 2, 2},   {"MP", 1, 1},   {"PE", 0, 0}};
constexpr Flag cr3_flags[] = {{"PDBR", 12, 63}, {"PCID", 0, 11}};
constexpr Flag cr4_flags[] = {{"PKS", 24, 24},   {"PKE", 22, 22},        {"SMAP", 21, 21}, {"SMEP", 20, 20}, {"OSXSAVE", 18, 18},
                              {"PCIDE", 17, 17}, {"FSGSBASE", 16, 16},   {"SMXE", 14, 14}, {"VMXE", 13, 13}, {"LA57", 12, 12},
                              {"UMIP", 11, 11},  {"OSXMMEXCPT", 10, 10}, {"OSFXSR", 9, 9}, {"PCE", 8, 8},    {"PGE", 7, 7},
                              {"MCE", 6, 6},     {"PAE", 5, 5},          {"PSE", 4, 4},    {"DE", 3, 3},     {"TSD", 2, 2},
                              {"PVI", 1, 1},     {"VME", 0, 0}};
constexpr Flag efer_flags[] = {{"FFXSR", 14, 14}, {"SVME", 12, 12}, {"NXE", 11, 11}, {"LMA", 10, 10}, {"LME", 8, 8}, {"SCE", 0, 0}};

// gdb shows a single-bit field by its name, and one of more bits with its value.
std::string flags_type(std::string_view id, std::span<const Flag> flags, unsigned bytes) {
  std::string out = format("<flags id=\"{}\" size=\"{}\">", id, bytes);
  for (const Flag& f : flags)
    if (f.first < bytes * 8)
      out += format("<field name=\"{}\" start=\"{}\" end=\"{}\"/>", f.name, f.first, std::min(f.last, bytes * 8 - 1));
  return out + "</flags>";
}

// The full tag word of the x87 from the abridged one: 0 valid, 1 zero, 2 special, 3 empty, by physical register (SDM 1 §8.1.7).
u16 full_tags(const X87Image& x) {
  const unsigned top = x.fsw >> 11 & 7;
  u16 out = 0;
  for (unsigned i = 0; i < 8; i++) {
    unsigned tag = 3;
    if (x.ftw >> i & 1) {
      const auto& st = x.st[(i - top) & 7];
      const u64 mantissa = load_le<u64>(st.data());
      const u16 exponent = load_le<u16>(st.data() + 8) & 0x7fff;
      tag = exponent == 0x7fff ? 2 : exponent == 0 ? (mantissa ? 2 : 1) : mantissa >> 63 ? 0 : 2;
    }
    out = static_cast<u16>(out | tag << 2 * i);
  }
  return out;
}
u8 abridged_tags(u16 full) {
  u8 out = 0;
  for (unsigned i = 0; i < 8; i++)
    if ((full >> 2 * i & 3) != 3) out = static_cast<u8>(out | 1u << i);
  return out;
}

u32 x87_get(const X87Image& x, unsigned which) {
  switch (which) {
    case 0: return x.fcw;
    case 1: return x.fsw;
    case 2: return full_tags(x);
    case 3: return static_cast<u32>(x.fip >> 32) & 0xffff;
    case 4: return static_cast<u32>(x.fip);
    case 5: return static_cast<u32>(x.fdp >> 32) & 0xffff;
    case 6: return static_cast<u32>(x.fdp);
    default: return x.fop;
  }
}
void x87_set(X87Image& x, unsigned which, u32 v) {
  switch (which) {
    case 0: x.fcw = static_cast<u16>((v & 0x1f3f) | 0x40); return;
    case 1: x.fsw = static_cast<u16>(v); return;
    case 2: x.ftw = abridged_tags(static_cast<u16>(v)); return;
    case 3: x.fip = (x.fip & 0xffff'ffff) | u64{v & 0xffff} << 32; return;
    case 4: x.fip = (x.fip & ~u64{0xffff'ffff}) | v; return;
    case 5: x.fdp = (x.fdp & 0xffff'ffff) | u64{v & 0xffff} << 32; return;
    case 6: x.fdp = (x.fdp & ~u64{0xffff'ffff}) | v; return;
    default: x.fop = static_cast<u16>(v & 0x7ff); return;
  }
}

// A selector that gdb writes loads what a MOV would, where the descriptor can be had; faults are not raised, the selector stands alone.
void load_selector(vm::Vcpu& vcpu, SegmentRegister which, u16 selector) {
  State& s = vcpu.state();
  Segment& segment = s.segment[which];
  if (segment.selector == selector) return;
  segment.selector = selector;
  if (!s.protected_mode() || s.v86()) {
    segment.base = u64{selector} << 4;
    return;
  }
  const TableRegister ldt{.base = s.ldtr.base, .limit = static_cast<u16>(std::min<u32>(s.ldtr.limit, 0xffff))};
  const TableRegister& table = selector & 4 ? ldt : s.gdtr;
  const u64 offset = selector & ~7u;
  if (offset == 0 || offset + 7 > table.limit) return;
  const auto at = vcpu.translate(GuestVirt{table.base + offset});
  u8 raw[8];
  if (!at || (at->value & 0xfff) > 0xff8 || !vcpu.memory().read(*at, raw)) return;
  const u64 d = load_le<u64>(raw);
  if (!(d >> 47 & 1) || !(d >> 44 & 1)) return;
  const u32 limit = static_cast<u32>((d & 0xffff) | (d >> 32 & 0xf'0000));
  segment.attributes = static_cast<u16>(d >> 40 & 0xf0ff);
  segment.limit = d >> 55 & 1 ? limit << 12 | 0xfff : limit;
  if (which < fs || !s.long_mode()) segment.base = (d >> 16 & 0xff'ffff) | (d >> 56 & 0xff) << 24;
}

}  // namespace

void Registers::add(std::string name, unsigned bytes, Kind kind, unsigned index, std::string_view type, std::string_view group) {
  xml_ += format("<reg name=\"{}\" bitsize=\"{}\" type=\"{}\"", name, bytes * 8, type);
  if (!group.empty()) xml_ += format(" group=\"{}\"", group);
  xml_ += format(" regnum=\"{}\"/>", rows_.size());
  bytes_ += bytes;
  rows_.push_back({std::move(name), static_cast<u8>(bytes), kind, static_cast<u8>(index), type, group});
}
void Registers::begin(std::string_view feature, std::string_view types) { xml_ += format("<feature name=\"{}\">{}", feature, types); }
void Registers::end() { xml_ += "</feature>\n"; }

Registers::Registers(const CpuModel& model) {
  const bool wide = model.has(CpuFeature::lm);
  const unsigned word = wide ? 8 : 4, vectors = wide ? 16 : 8;
  xml_ = format(
      "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">"
      "<architecture>{}</architecture>\n",
      wide ? "i386:x86-64" : "i386");
  begin("org.gnu.gdb.i386.core", core_types);
  const std::string_view plain = wide ? "int64" : "int32";
  for (unsigned i = 0; i < (wide ? 16u : 8u); i++) {
    const Gpr r = wide ? wide_order[i] : narrow_order[i];
    add(std::string{wide ? wide_names[i] : narrow_names[i]}, word, Kind::gpr, r, r == rsp || r == rbp ? "data_ptr" : plain);
  }
  add(wide ? "rip" : "eip", word, Kind::rip, 0, "code_ptr");
  add("eflags", 4, Kind::eflags, 0, "i386_eflags");
  for (const auto& [name, number] : segments) add(std::string{name}, 4, Kind::selector, number, "int32");
  for (unsigned i = 0; i < 8; i++) add(format("st{}", i), 10, Kind::st, i, "i387_ext", "float");
  for (unsigned i = 0; i < 8; i++) add(std::string{x87_names[i]}, 4, Kind::x87_control, i, "int", "float");
  end();
  begin("org.gnu.gdb.i386.sse", sse_types);
  for (unsigned i = 0; i < vectors; i++) add(format("xmm{}", i), 16, Kind::xmm, i, "vec128", "vector");
  add("mxcsr", 4, Kind::mxcsr, 0, "i386_mxcsr", "vector");
  end();
  if (model.has(CpuFeature::avx)) {
    begin("org.gnu.gdb.i386.avx");
    for (unsigned i = 0; i < vectors; i++) add(format("ymm{}h", i), 16, Kind::ymm_high, i, "uint128");
    end();
  }
  if (model.has(CpuFeature::pku)) {
    begin("org.gnu.gdb.i386.pkeys");
    add("pkru", 4, Kind::pkru, 0, "int32");
    end();
  }
  if (wide) {
    begin("org.gnu.gdb.i386.segments");
    for (const SegmentRegister r : {fs, gs}) add(r == fs ? "fs_base" : "gs_base", 8, Kind::base, r, "int64");
    end();
  }
  begin("org.vmm.i386.system", flags_type("cr0_flags", cr0_flags, word) + flags_type("cr3_flags", cr3_flags, word) +
                                   flags_type("cr4_flags", cr4_flags, word) + flags_type("efer_flags", efer_flags, word));
  for (const auto& [name, number] : segments)
    if (!wide || number < fs) add(format("{}_base", name), word, Kind::base, number, wide ? "int64" : "int32");
  if (wide) add("k_gs_base", 8, Kind::kernel_gs_base, 0, "int64");
  add("cr0", word, Kind::control, 0, "cr0_flags");
  add("cr2", word, Kind::control, 2, wide ? "int64" : "int32");
  add("cr3", word, Kind::control, 3, "cr3_flags");
  add("cr4", word, Kind::control, 4, "cr4_flags");
  if (wide) add("cr8", word, Kind::control, 8, "int64");
  add("efer", word, Kind::efer, 0, "efer_flags");
  end();
  xml_ += "</target>\n";
}

void Registers::get(vm::Vcpu& vcpu, usize number, std::span<u8> out) const {
  const Row& row = rows_[number];
  const State& s = vcpu.state();
  std::ranges::fill(out, 0);
  const auto put = [&](u64 v) { std::memcpy(out.data(), &v, std::min<usize>(out.size(), 8)); };
  switch (row.kind) {
    case Kind::gpr: return put(s.gpr[row.index]);
    case Kind::rip: return put(s.rip);
    case Kind::eflags: return put(static_cast<u32>(s.rflags));
    case Kind::selector: return put(s.segment[row.index].selector);
    case Kind::st: std::memcpy(out.data(), s.x87.st[row.index].data(), 10); return;
    case Kind::x87_control: return put(x87_get(s.x87, row.index));
    case Kind::xmm: std::memcpy(out.data(), &s.vector[row.index].lane[0], 16); return;
    case Kind::mxcsr: return put(s.mxcsr);
    case Kind::ymm_high: std::memcpy(out.data(), &s.vector[row.index].lane[2], 16); return;
    case Kind::pkru: return put(s.pkru);
    case Kind::base: return put(s.segment[row.index].base);
    case Kind::kernel_gs_base: return put(s.kernel_gs_base);
    case Kind::control:
      switch (row.index) {
        case 0: return put(s.cr0);
        case 2: return put(s.cr2);
        case 3: return put(s.cr3);
        case 4: return put(s.cr4);
        default: return put(vcpu.interrupts() ? u64{vcpu.interrupts()->tpr()} >> 4 : s.cr8);
      }
    case Kind::efer: return put(s.efer);
  }
}

// What a debugger writes is what it gets, within what the emulator's own invariants allow: reserved bits stay as they are.
void Registers::set(vm::Vcpu& vcpu, usize number, std::span<const u8> from) const {
  const Row& row = rows_[number];
  State& s = vcpu.state();
  u64 v = 0;
  std::memcpy(&v, from.data(), std::min<usize>(from.size(), 8));
  switch (row.kind) {
    case Kind::gpr: s.gpr[row.index] = v; return;
    case Kind::rip: s.rip = v; return;
    case Kind::eflags: {
      constexpr u64 writable =
          arithmetic_flags | flag_tf | flag_if | flag_df | flag_iopl | flag_nt | flag_rf | flag_ac | flag_vif | flag_vip | flag_id;
      s.rflags = (s.rflags & ~writable) | (v & writable) | flag_1;
      return;
    }
    case Kind::selector: return load_selector(vcpu, static_cast<SegmentRegister>(row.index), static_cast<u16>(v));
    case Kind::st: std::memcpy(s.x87.st[row.index].data(), from.data(), 10); return;
    case Kind::x87_control: return x87_set(s.x87, row.index, static_cast<u32>(v));
    case Kind::xmm: std::memcpy(&s.vector[row.index].lane[0], from.data(), 16); return;
    case Kind::mxcsr: s.mxcsr = static_cast<u32>(v) & 0xffff; return;
    case Kind::ymm_high: std::memcpy(&s.vector[row.index].lane[2], from.data(), 16); return;
    case Kind::pkru: s.pkru = static_cast<u32>(v); return;
    case Kind::base: s.segment[row.index].base = s.long_mode() ? v : static_cast<u32>(v); return;
    case Kind::kernel_gs_base: s.kernel_gs_base = v; return;
    case Kind::control:
      switch (row.index) {
        case 0: {
          // Switching modes is the guest's: what hangs together with other registers stays.
          constexpr u64 writable = cr0_mp | cr0_em | cr0_ts | cr0_ne | cr0_wp | cr0_am | cr0_nw | cr0_cd;
          s.cr0 = (s.cr0 & ~writable) | (v & writable);
          return;
        }
        case 2: s.cr2 = v; return;
        case 3: s.cr3 = v & 0x000f'ffff'ffff'ffff; return;
        case 4: {
          constexpr u64 fixed = cr4_pae | cr4_la57 | cr4_pcide;
          constexpr u64 known = cr4_vme | cr4_pvi | cr4_tsd | cr4_de | cr4_pse | cr4_mce | cr4_pge | cr4_pce | cr4_osfxsr | cr4_osxmmexcpt |
                                cr4_umip | cr4_fsgsbase | cr4_osxsave | cr4_smep | cr4_smap | cr4_pke | cr4_pks;
          s.cr4 = (s.cr4 & (fixed | ~known)) | (v & known);
          return;
        }
        default:
          if (vcpu.interrupts())
            vcpu.interrupts()->set_tpr(static_cast<u8>((v & 15) << 4));
          else
            s.cr8 = v & 15;
          return;
      }
    case Kind::efer: {
      constexpr u64 writable = efer_sce | efer_nxe;
      s.efer = (s.efer & ~writable) | (v & writable);
      return;
    }
  }
}

}  // namespace vmm::gdb
