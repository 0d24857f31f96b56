// x, xp, print, i, o, sum, memsave, pmemsave, gpa2hva, gva2gpa: looking at memory and ports. Formats are those of gdb: /COUNT FORMAT SIZE.
// Disassembly is capstone's.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "monitor/human.h"
#include "src/io/fd_set.h"
#include "src/vm/cpu_registers.h"
#include "src/vm/machine.h"
#include "src/x86/disassemble.h"

namespace vmm {
namespace monitor {
struct MemsaveArgs {
  i64 address = 0, size = 0;
  std::string filename;
  std::optional<i64> cpu_index;
};
struct PmemsaveArgs {
  i64 address = 0, size = 0;
  std::string filename;
};
}  // namespace monitor
template <>
inline constexpr std::array fields<monitor::MemsaveArgs> = {
    field<&monitor::MemsaveArgs::address>("val", "First virtual address."),
    field<&monitor::MemsaveArgs::size>("size", "How many bytes."),
    field<&monitor::MemsaveArgs::filename>("filename", "File to write."),
    field<&monitor::MemsaveArgs::cpu_index>("cpu-index", "The CPU whose tables count."),
};
template <>
inline constexpr std::array fields<monitor::PmemsaveArgs> = {
    field<&monitor::PmemsaveArgs::address>("val", "First physical address."),
    field<&monitor::PmemsaveArgs::size>("size", "How many bytes."),
    field<&monitor::PmemsaveArgs::filename>("filename", "File to write."),
};
}  // namespace vmm

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
  unsigned width = 16;
  if (vcpu)
    vm::with_state(*vcpu, [&](x86::State& s) { width = s.code64() ? 64 : s.protected_mode() && s.segment[x86::cs].big() ? 32 : 16; });
  if (!x86::load_disassembler()) return "no disassembler: libcapstone.so.4 is not installed\n";
  std::string out;
  for (; count > 0; count--) {
    u8 bytes[15];
    usize have = sizeof bytes;
    while (have > 0 && !read_guest(vcpu, machine, address, physical, {bytes, have})) have--;
    if (have == 0) {
      out += format("0x{:08x}: unable to read memory\n", address);
      break;
    }
    usize length = 1;
    std::string text = format(".byte    0x{:02x}", bytes[0]);
    if (const auto lines = x86::disassemble({bytes, have}, address, width, x86::CodeSyntax::att, 1); lines.size() == 1) {
      length = lines[0].bytes;
      text = lines[0].operands.empty() ? lines[0].mnemonic : format("{:<8} {}", lines[0].mnemonic, lines[0].operands);
    }
    std::string hex;
    for (usize i = 0; i < length; i++) hex += format(" {:02x}", bytes[i]);
    out += format("0x{:08x}: {:<25} {}\n", address, hex, text);
    address += length;
  }
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

// The 16-bit sum that `sum` shows: rotated by one bit before each byte is added (as BSD's sum has it).
Result<std::string> sum(Context& context, std::span<const std::string> words) {
  vm::Machine* machine = vm::current_machine();
  if (!machine) return fail("No machine");
  if (words.size() != 2) return fail("sum takes an address and a size");
  const u64 start = TRY(evaluate(context, words[0])), size = TRY(evaluate(context, words[1]));
  if (size > GiB) return fail("sum takes 1 GiB at most");
  u16 total = 0;
  for (u64 at = start; at != start + size; at++) {
    u8 byte = 0xff;
    (void)machine->memory().read(GuestPhys{at}, {&byte, 1});
    total = static_cast<u16>((total >> 1 | total << 15) + byte);
  }
  return format("{:05}\n", total);
}

constexpr u64 save_limit = u64{1} << 40;

Result<> save(vm::Vcpu* vcpu, vm::Machine& machine, u64 address, i64 size, const std::string& filename, bool physical) {
  if (size < 0 || static_cast<u64>(size) > save_limit) return fail("'size' takes 0 to {}, not {}", save_limit, size);
  const Fd file = TRY(io::open_file(filename, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC));
  std::vector<u8> piece(memory::page_bytes);
  for (u64 left = static_cast<u64>(size); left;) {
    const usize n = std::min<u64>(left, memory::page_bytes - address % memory::page_bytes);
    if (!read_guest(vcpu, machine, address, physical, {piece.data(), n})) {
      if (!physical) return fail("Invalid addr 0x{:016x}/size {} specified", address, left);
      std::fill_n(piece.begin(), n, u8{0xff});  // nothing there
    }
    for (usize done = 0; done < n;) {
      const ssize_t wrote = ::write(file.get(), &piece[done], n - done);
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return fail_errno("writing memory to file failed");
      done += static_cast<usize>(wrote);
    }
    address += n, left -= n;
  }
  return {};
}
Result<> memsave(Context& context, const MemsaveArgs& args) {
  vm::Machine* machine = vm::current_machine();
  if (!machine) return fail("No machine");
  const i64 index = args.cpu_index.value_or(context.cpu_index());
  if (index < 0 || index > UINT32_MAX) return fail("Parameter 'cpu-index' expects a CPU number");
  return save(TRY(vm::find_vcpu(static_cast<unsigned>(index))), *machine, static_cast<u64>(args.address), args.size, args.filename, false);
}
Result<> pmemsave(Context&, const PmemsaveArgs& args) {
  vm::Machine* machine = vm::current_machine();
  if (!machine) return fail("No machine");
  return save(nullptr, *machine, static_cast<u64>(args.address), args.size, args.filename, true);
}

Result<std::string> gpa2hva(Context& context, std::span<const std::string> words) {
  vm::Machine* machine = vm::current_machine();
  if (!machine) return fail("No machine");
  const u64 address = TRY(evaluate(context, join(words)));
  const auto view = machine->memory().view();
  const memory::FlatRange* range = view->find(address);
  if (!range || !range->ram) return fail("Memory at address 0x{:x} is not RAM", address);
  const u8* host = range->ram->host() + range->ram_offset + (address - range->first);
  return format("Host virtual address for 0x{:x} ({}) is {}\n", address, range->region->name(), static_cast<const void*>(host));
}
Result<std::string> gva2gpa(Context& context, std::span<const std::string> words) {
  vm::Vcpu* vcpu = TRY(vm::find_vcpu(context.cpu_index()));
  const u64 address = TRY(evaluate(context, join(words)));
  std::string out = "Unmapped\n";
  vm::with_state(*vcpu, [&](x86::State&) {
    if (const auto at = vcpu->translate(GuestVirt{address})) out = format("gpa: 0x{:x}\n", at->value);
  });
  return out;
}

control::Registered registered[] = {
    control::Registered{human<sum>({.human = "sum", .human_help = "sum addr size -- compute the checksum of a memory region"})},
    control::Registered{command<memsave>({.name = "memsave",
                                          .doc = "Saves a range of virtual memory to a file.",
                                          .since = "0.14",
                                          .human = "memsave",
                                          .human_args = "val:l,size:i,filename:s",
                                          .human_help = "memsave addr size file -- save to disk virtual memory dump starting at 'addr' of "
                                                        "size 'size'"})},
    control::Registered{command<pmemsave>({.name = "pmemsave",
                                           .doc = "Saves a range of physical memory to a file.",
                                           .since = "0.14",
                                           .human = "pmemsave",
                                           .human_args = "val:l,size:i,filename:s",
                                           .human_help = "pmemsave addr size file -- save to disk physical memory dump starting at 'addr' "
                                                         "of size 'size'"})},
    control::Registered{human<gpa2hva>(
        {.human = "gpa2hva", .human_help = "gpa2hva addr -- print the host virtual address corresponding to a guest physical address"})},
    control::Registered{human<gva2gpa>(
        {.human = "gva2gpa", .human_help = "gva2gpa addr -- print the guest physical address corresponding to a guest virtual address"})},
    control::Registered{human<x>({.human = "x", .human_help = "x /fmt addr -- virtual memory dump starting at 'addr'"})},
    control::Registered{human<xp>({.human = "xp", .human_help = "xp /fmt addr -- physical memory dump starting at 'addr'"})},
    control::Registered{
        human<print>({.human = "print|p", .human_help = "print|p /fmt expr -- print expression value (use $reg for CPU register access)"})},
    control::Registered{human<port_in>({.human = "i", .human_help = "i /fmt addr -- I/O port read"})},
    control::Registered{human<port_out>({.human = "o", .human_help = "o /fmt addr value -- I/O port write"})},
};

}  // namespace
}  // namespace vmm::monitor
