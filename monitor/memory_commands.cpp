// x, xp, print, i, o: looking at memory and ports. Formats are those of gdb: /COUNT FORMAT SIZE. Disassembly is capstone's.
#include <capstone/capstone.h>

#include <algorithm>

#include "monitor/human.h"
#include "src/vm/cpu_registers.h"
#include "src/vm/machine.h"

namespace vmm::monitor {
namespace {

using namespace control;

struct Form {
  u64 count = 1;
  char format = 'x';
  unsigned size = 4;
};
constexpr u64 most = 64 * KiB;  // items of one command

// "/4xb"
Result<Form> take_form(std::span<const std::string>& words, Form form) {
  if (words.empty() || !words[0].starts_with('/')) return form;
  u64 count = 0;
  bool count_given = false;
  for (char c : words[0].substr(1)) {
    if (c >= '0' && c <= '9') {
      count = std::min<u64>(count * 10 + static_cast<u64>(c - '0'), most + 1), count_given = true;
      continue;
    }
    switch (c) {
      case 'b': form.size = 1; break;
      case 'h': form.size = 2; break;
      case 'w': form.size = 4; break;
      case 'g':
      case 'L': form.size = 8; break;
      case 'x':
      case 'd':
      case 'u':
      case 'o':
      case 'c':
      case 'i':
      case 'a': form.format = c; break;
      default: return fail("invalid char in format: '{}'", c);
    }
  }
  if (count_given) form.count = count;
  if (form.count > most) return fail("at most {} items at a time", most);
  words = words.subspan(1);
  return form;
}

std::string join(std::span<const std::string> words) {
  std::string out;
  for (const auto& w : words) out += (out.empty() ? "" : " ") + w;
  return out;
}

std::string one_value(u64 v, const Form& form) {
  const u64 masked = form.size == 8 ? v : v & ((u64{1} << (8 * form.size)) - 1);
  const i64 number = form.size == 8 ? static_cast<i64>(v) : static_cast<i64>(v << (64 - 8 * form.size)) >> (64 - 8 * form.size);
  static constexpr unsigned decimal_width[] = {0, 4, 6, 0, 11, 0, 0, 0, 20}, octal_width[] = {0, 3, 6, 0, 11, 0, 0, 0, 22};
  switch (form.format) {
    case 'd': return format("{:>{}}", number, decimal_width[form.size]);
    case 'u': return format("{:>{}}", masked, decimal_width[form.size] - 1);
    case 'o': return format("0{:0{}o}", masked, octal_width[form.size]);
    case 'c':
      if (masked >= 32 && masked < 127)
        return masked == '\'' || masked == '\\' ? format("'\\{}'", static_cast<char>(masked)) : format("'{}'", static_cast<char>(masked));
      if (masked == '\n') return "'\\n'";
      if (masked == '\r') return "'\\r'";
      return format("'\\x{:02x}'", masked & 0xff);
    default: return format("0x{:0{}x}", masked, 2 * form.size);
  }
}

// Reads guest memory, virtual by the current CPU's tables or physical; false at the first byte that is not there.
bool read_guest(vm::Vcpu* vcpu, vm::Machine& machine, u64 address, bool physical, std::span<u8> into) {
  while (!into.empty()) {
    const usize n = std::min<u64>(into.size(), memory::page_bytes - address % memory::page_bytes);
    u64 at = address;
    if (!physical) {
      bool mapped = false;  // the tables are looked at where the CPU does not change under us
      vm::with_state(*vcpu, [&](x86::State&) {
        const auto translated = vcpu->translate(GuestVirt{address});
        mapped = translated.has_value();
        if (mapped) at = translated->value;
      });
      if (!mapped) return false;
    }
    const memory::AddressSpace& space = vcpu ? vcpu->memory() : machine.memory();
    if (!space.read(GuestPhys{at}, into.first(n))) return false;
    into = into.subspan(n);
    address += n;
  }
  return true;
}

std::string disassemble(vm::Vcpu* vcpu, vm::Machine& machine, u64 address, u64 count, bool physical) {
  cs_mode mode = CS_MODE_16;
  if (vcpu)
    vm::with_state(*vcpu, [&](x86::State& s) {
      mode = s.code64() ? CS_MODE_64 : s.protected_mode() && s.segment[x86::cs].big() ? CS_MODE_32 : CS_MODE_16;
    });
  csh engine;
  if (cs_open(CS_ARCH_X86, mode, &engine) != CS_ERR_OK) return "no disassembler\n";
  cs_option(engine, CS_OPT_SYNTAX, CS_OPT_SYNTAX_ATT);
  std::string out;
  for (; count > 0; count--) {
    u8 bytes[15];
    usize have = sizeof bytes;
    while (have > 0 && !read_guest(vcpu, machine, address, physical, {bytes, have})) have--;
    if (have == 0) {
      out += format("0x{:08x}: unable to read memory\n", address);
      break;
    }
    cs_insn* insn = nullptr;
    usize length = 1;
    std::string text = format(".byte    0x{:02x}", bytes[0]);
    if (cs_disasm(engine, bytes, have, address, 1, &insn) == 1) {
      length = insn->size;
      text = insn->op_str[0] ? format("{:<8} {}", insn->mnemonic, insn->op_str) : std::string{insn->mnemonic};
      cs_free(insn, 1);
    }
    std::string hex;
    for (usize i = 0; i < length; i++) hex += format(" {:02x}", bytes[i]);
    out += format("0x{:08x}: {:<25} {}\n", address, hex, text);
    address += length;
  }
  cs_close(&engine);
  return out;
}

Result<std::string> dump(Context& context, std::span<const std::string> words, bool physical) {
  vm::Machine* machine = vm::current_machine();
  if (!machine) return fail("No machine");
  Form form = TRY(take_form(words, {}));
  const u64 start = TRY(evaluate(context, join(words)));
  vm::Vcpu* vcpu = nullptr;
  if (auto found = vm::find_vcpu(context.cpu_index())) vcpu = *found;
  if (!vcpu && !physical) return fail("No CPU");
  if (form.format == 'i') return disassemble(vcpu, *machine, start, form.count, physical);
  if (form.format == 'c') form.size = 1;
  if (form.format == 'a') form.format = 'x', form.size = 8;
  const u64 per_line = form.format == 'c' ? 8 : std::max<u64>(1, 16 / form.size);
  std::string out;
  u64 address = start;
  for (u64 i = 0; i < form.count; i++) {
    if (i % per_line == 0) out += format("{}{:016x}:", i ? "\n" : "", address);
    u8 bytes[8]{};
    if (!read_guest(vcpu, *machine, address, physical, {bytes, form.size})) {
      out += " Cannot access memory";
      break;
    }
    u64 v;
    std::memcpy(&v, bytes, 8);
    out += " " + one_value(v, form);
    address += form.size;
  }
  return out + "\n";
}

Result<std::string> x(Context& context, std::span<const std::string> words) { return dump(context, words, false); }
Result<std::string> xp(Context& context, std::span<const std::string> words) { return dump(context, words, true); }

Result<std::string> print(Context& context, std::span<const std::string> words) {
  Form form = TRY(take_form(words, {.count = 1, .format = 'x', .size = 8}));
  const u64 v = TRY(evaluate(context, join(words)));
  if (form.format == 'x' || form.format == 'a') return format("0x{:x}\n", v);
  if (form.format == 'o') return format("0{:o}\n", v);
  if (form.format == 'u') return format("{}\n", v);
  if (form.format == 'c') return one_value(v & 0xff, {.format = 'c', .size = 1}) + "\n";
  return format("{}\n", static_cast<i64>(v));
}

Result<std::string> port_in(Context& context, std::span<const std::string> words) {
  vm::Machine* machine = vm::current_machine();
  if (!machine) return fail("No machine");
  const Form form = TRY(take_form(words, {.count = 1, .format = 'x', .size = 1}));
  const u64 port = TRY(evaluate(context, join(words))) & 0xffff;
  if (form.size == 8) return fail("ports are 1, 2 or 4 bytes wide");
  const u64 v = machine->ports().load(GuestPhys{port}, form.size);
  return format("port{}[0x{:04x}] = 0x{:0{}x}\n", form.size == 1 ? 'b' : form.size == 2 ? 'w' : 'l', port, v, 2 * form.size);
}

Result<std::string> port_out(Context& context, std::span<const std::string> words) {
  vm::Machine* machine = vm::current_machine();
  if (!machine) return fail("No machine");
  const Form form = TRY(take_form(words, {.count = 1, .format = 'x', .size = 1}));
  if (words.size() != 2) return fail("o[/fmt] port value: two arguments are needed");
  if (form.size == 8) return fail("ports are 1, 2 or 4 bytes wide");
  const u64 port = TRY(evaluate(context, words[0])) & 0xffff, v = TRY(evaluate(context, words[1]));
  machine->ports().store(GuestPhys{port}, form.size, v);
  return std::string{};
}

control::Registered registered[] = {
    control::Registered{human<x>({.human = "x", .human_help = "x /fmt addr -- virtual memory dump starting at 'addr'"})},
    control::Registered{human<xp>({.human = "xp", .human_help = "xp /fmt addr -- physical memory dump starting at 'addr'"})},
    control::Registered{
        human<print>({.human = "print|p", .human_help = "print|p /fmt expr -- print expression value (use $reg for CPU register access)"})},
    control::Registered{human<port_in>({.human = "i", .human_help = "i /fmt addr -- I/O port read"})},
    control::Registered{human<port_out>({.human = "o", .human_help = "o /fmt addr value -- I/O port write"})},
};

}  // namespace
}  // namespace vmm::monitor
