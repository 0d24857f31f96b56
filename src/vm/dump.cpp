// dump-guest-memory, query-dump, query-dump-guest-memory-capability: an ELF core of the guest's memory with its CPUs' registers, for crash
// and gdb. Sources: System V ABI (ELF-64), its x86-64 supplement (NT_PRSTATUS as Linux lays it out); the "QEMU" note as crash reads it.
// The machine stands still meanwhile; a worker writes, and the monitors go on.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>

#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/control/command.h"
#include "src/event/worker_pool.h"
#include "src/io/fd_set.h"
#include "src/vm/machine.h"

namespace vmm {
namespace vm {
enum class DumpFormat { elf };
enum class DumpStatus { none, active, completed, failed };
struct DumpArgs {
  bool paging = false;
  std::string protocol;
  std::optional<bool> detach;
  std::optional<i64> begin, length;
  std::optional<DumpFormat> format;
};
struct DumpInfo {
  DumpStatus status = DumpStatus::none;
  i64 completed = 0, total = 0;
};
struct DumpCompleted {
  DumpInfo result;
  std::optional<std::string> error;
};
struct DumpCapability {
  std::vector<DumpFormat> formats;
};
}  // namespace vm
using namespace vm;
template <>
inline constexpr std::array enum_names<DumpFormat> = {EnumNameOf<DumpFormat>{DumpFormat::elf, "elf"}};
template <>
inline constexpr std::array enum_names<DumpStatus> = {
    EnumNameOf<DumpStatus>{DumpStatus::none, "none"}, EnumNameOf<DumpStatus>{DumpStatus::active, "active"},
    EnumNameOf<DumpStatus>{DumpStatus::completed, "completed"}, EnumNameOf<DumpStatus>{DumpStatus::failed, "failed"}};
template <>
inline constexpr std::array fields<DumpArgs> = {
    field<&DumpArgs::paging>("paging", "Virtual addresses as the first CPU sees them."),
    field<&DumpArgs::protocol>("protocol", "file:PATH, or fd:NAME of a descriptor that getfd named."),
    field<&DumpArgs::detach>("detach", "Answer at once; DUMP_COMPLETED tells of the end."),
    field<&DumpArgs::begin>("begin", "First address, with 'length'.", {.min = 0}),
    field<&DumpArgs::length>("length", "Bytes from 'begin' on.", {.min = 1}),
    field<&DumpArgs::format>("format", "Form of the file."),
};
template <>
inline constexpr std::array fields<DumpInfo> = {
    field<&DumpInfo::status>("status", "How far the last dump has come."),
    field<&DumpInfo::completed>("completed", "Bytes written."),
    field<&DumpInfo::total>("total", "Bytes in all."),
};
template <>
inline constexpr std::array fields<DumpCompleted> = {field<&DumpCompleted::result>("result", "How it ended."),
                                                     field<&DumpCompleted::error>("error", "Why it failed.")};
template <>
inline constexpr std::array fields<DumpCapability> = {field<&DumpCapability::formats>("formats", "Forms of the file.")};

namespace vm {
namespace {

using namespace control;

constexpr EventInfo dump_completed{.name = "DUMP_COMPLETED", .doc = "A dump has ended.", .data = &Codec<DumpCompleted>::description};
RegisteredEvent registered_event{dump_completed};

// The one dump that may be under way, and how the last one went.
struct Progress {
  std::atomic<DumpStatus> status{DumpStatus::none};
  std::atomic<u64> completed{0}, total{0};
  DumpInfo info() const { return {status.load(), static_cast<i64>(completed.load()), static_cast<i64>(total.load())}; }
};
Progress& progress() {
  static Progress it;
  return it;
}

using Bytes = std::vector<u8>;
template <std::unsigned_integral T>
void put(Bytes& to, T value) {
  for (usize i = 0; i < sizeof(T); i++) to.push_back(static_cast<u8>(value >> 8 * i));
}
void pad(Bytes& to, usize size) { to.resize(size); }

void put_note(Bytes& to, std::string_view owner, u32 type, const Bytes& content) {
  put<u32>(to, static_cast<u32>(owner.size() + 1));
  put<u32>(to, static_cast<u32>(content.size()));
  put<u32>(to, type);
  to.insert(to.end(), owner.begin(), owner.end());
  pad(to, (to.size() + 4) & ~usize{3});
  to.insert(to.end(), content.begin(), content.end());
  pad(to, (to.size() + 3) & ~usize{3});
}

// struct elf_prstatus of Linux on x86-64: 336 bytes, registers from 112 on.
Bytes process_status(const x86::State& s, unsigned index) {
  using namespace x86;
  Bytes out(32);
  put<u32>(out, index + 1);
  pad(out, 112);
  for (Gpr r : {r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi}) put<u64>(out, s.gpr[r]);
  put<u64>(out, 0);  // orig_rax
  put<u64>(out, s.rip);
  put<u64>(out, s.segment[cs].selector);
  put<u64>(out, s.rflags);
  put<u64>(out, s.gpr[rsp]);
  put<u64>(out, s.segment[ss].selector);
  put<u64>(out, s.segment[fs].base);
  put<u64>(out, s.segment[gs].base);
  for (SegmentRegister r : {ds, es, fs, gs}) put<u64>(out, s.segment[r].selector);
  pad(out, 336);
  return out;
}
// What crash reads to find a relocated kernel: version 1, 440 bytes.
Bytes machine_status(const x86::State& s) {
  using namespace x86;
  Bytes out;
  put<u32>(out, 1), put<u32>(out, 440);
  for (Gpr r : {rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15}) put<u64>(out, s.gpr[r]);
  put<u64>(out, s.rip), put<u64>(out, s.rflags);
  const auto segment = [&](u32 selector, u32 limit, u32 flags, u64 base) {
    put<u32>(out, selector), put<u32>(out, limit), put<u32>(out, flags), put<u32>(out, 0), put<u64>(out, base);
  };
  for (SegmentRegister r : {cs, ds, es, fs, gs, ss})
    segment(s.segment[r].selector, s.segment[r].limit, u32{s.segment[r].attributes} << 8, s.segment[r].base);
  for (const Segment* g : {&s.ldtr, &s.tr}) segment(g->selector, g->limit, u32{g->attributes} << 8, g->base);
  for (const TableRegister* t : {&s.gdtr, &s.idtr}) segment(0, t->limit, 0, t->base);
  for (u64 cr : {s.cr0, u64{0}, s.cr2, s.cr3, s.cr4}) put<u64>(out, cr);
  put<u64>(out, s.kernel_gs_base);
  return out;
}

struct Piece {
  u64 address = 0, size = 0;
  const u8* host = nullptr;
};

// RAM only, cut to what was asked for.
std::vector<Piece> pieces_of(const memory::FlatView& view, u64 begin, u64 length) {
  std::vector<Piece> out;
  const u64 end = length ? begin + std::min(length, ~u64{0} - begin) : ~u64{0};
  for (const memory::FlatRange& r : view.ranges()) {
    if (!r.ram || r.read_only) continue;
    const u64 first = std::max(r.first, begin), last = std::min(r.last + 1, end);
    if (first < last) out.push_back({.address = first, .size = last - first, .host = r.ram->host() + r.ram_offset + (first - r.first)});
  }
  return out;
}

Bytes header(const std::vector<Piece>& pieces, const Bytes& notes) {
  constexpr u16 header_bytes = 64, entry_bytes = 56;
  Bytes out{0x7f, 'E', 'L', 'F', 2, 1, 1};
  pad(out, 16);
  put<u16>(out, 4), put<u16>(out, 62), put<u32>(out, 1);            // core, x86-64
  put<u64>(out, 0), put<u64>(out, header_bytes), put<u64>(out, 0);  // entry, program headers, sections
  put<u32>(out, 0), put<u16>(out, header_bytes), put<u16>(out, entry_bytes);
  put<u16>(out, static_cast<u16>(pieces.size() + 1));
  pad(out, header_bytes);
  u64 at = header_bytes + entry_bytes * (pieces.size() + 1);
  const auto entry = [&](u32 type, u64 address, u64 size) {
    put<u32>(out, type), put<u32>(out, 0), put<u64>(out, at);
    put<u64>(out, address), put<u64>(out, address), put<u64>(out, size), put<u64>(out, size), put<u64>(out, 0);
    at += size;
  };
  entry(4, 0, notes.size());
  for (const Piece& p : pieces) entry(1, p.address, p.size);
  out.insert(out.end(), notes.begin(), notes.end());
  return out;
}

Result<> write_all(int fd, const u8* bytes, u64 size) {
  while (size) {
    const ssize_t n = ::write(fd, bytes, std::min<u64>(size, 4 * MiB));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("dump: failed to save memory");
    bytes += n, size -= static_cast<u64>(n);
    progress().completed += static_cast<u64>(n);
  }
  return {};
}

Result<Fd> open_target(const std::string& protocol) {
  if (protocol.starts_with("fd:")) return io::take_named_fd(protocol.substr(3));
  if (!protocol.starts_with("file:"))
    return fail("Parameter 'protocol' does not accept value '{}'; it takes file:PATH or fd:NAME", protocol.substr(0, 200));
  return io::open_file(protocol.substr(5), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

// The whole of it; the machine is stopped, and goes on afterwards if it ran.
Task<> dump(Machine* machine, Fd target, std::vector<Piece> pieces, Bytes head, std::shared_ptr<const memory::FlatView> view, bool resume) {
  auto done = co_await attempt(worker_pool().run<u32>(
      machine->main_loop(),
      [fd = target.get(), pieces = std::move(pieces), head = std::move(head), view = std::move(view)]() -> Result<u32> {
        TRY(write_all(fd, head.data(), head.size()));
        for (const Piece& p : pieces) TRY(write_all(fd, p.host, p.size));
        return 0u;
      }));
  progress().status = done ? DumpStatus::completed : DumpStatus::failed;
  DumpCompleted data{.result = progress().info(), .error = {}};
  if (!done) data.error = done.error().message;
  emit(dump_completed, Codec<DumpCompleted>::to_value(data));
  if (resume && current_machine() == machine && machine->run_state().status() == Status::save_vm) machine->run_state().start();
  if (!done) co_return std::unexpected(std::move(done).error());
  co_return Result<>{};
}

Task<Value> dump_guest_memory(Context&, Value arguments) {
  DumpArgs args;
  if (auto ok = assign_fields(&args, fields<DumpArgs>, arguments); !ok) co_return std::unexpected(std::move(ok).error());
  Machine* machine = current_machine();
  if (!machine || machine->vcpus().empty()) co_return fail("this machine has no memory to dump");
  if (progress().status == DumpStatus::active) co_return fail("There is a dump in process, please wait.");
  if (args.paging) co_return fail("'paging' is not possible yet; physical addresses are what crash reads");
  if (args.begin.has_value() != args.length.has_value()) co_return fail("Parameter '{}' is missing", args.begin ? "length" : "begin");
  auto target = open_target(args.protocol);
  if (!target) co_return std::unexpected(std::move(target).error());
  RunState& state = machine->run_state();
  const bool resume = state.running();
  if (resume) state.stop(Status::save_vm);
  Bytes notes;
  for (const auto& vcpu : machine->vcpus()) put_note(notes, "CORE", 1, process_status(vcpu->state(), vcpu->index()));
  for (const auto& vcpu : machine->vcpus()) put_note(notes, "QEMU", 0, machine_status(vcpu->state()));
  std::shared_ptr<const memory::FlatView> view = machine->memory().view();
  std::vector<Piece> pieces = pieces_of(*view, static_cast<u64>(args.begin.value_or(0)), static_cast<u64>(args.length.value_or(0)));
  Bytes head = header(pieces, notes);
  u64 total = head.size();
  for (const Piece& p : pieces) total += p.size;
  progress().completed = 0, progress().total = total, progress().status = DumpStatus::active;
  Task<> work = dump(machine, std::move(*target), std::move(pieces), std::move(head), std::move(view), resume);
  if (args.detach.value_or(false)) {
    std::move(work).start([](Result<> result) {
      if (!result) report_error(result.error());
    });
    co_return Value::object();
  }
  co_await std::move(work);
  co_return Value::object();
}

Result<DumpInfo> query_dump(Context&) { return progress().info(); }
std::string print_dump(const Value& v) {
  const double total = static_cast<double>(v.find("total")->as_u64("").value_or(0));
  const double done = static_cast<double>(v.find("completed")->as_u64("").value_or(0));
  std::string out = format("Status: {}\n", v.find("status")->get_string());
  if (v.find("status")->get_string() == "active") out += format("Finished: {:.2f} %\n", total > 0 ? 100 * done / total : 0.0);
  return out;
}
Result<DumpCapability> query_capability(Context&) { return DumpCapability{{DumpFormat::elf}}; }

const control::Registered registered[] = {
    control::Registered{
        Command{.info = {.name = "dump-guest-memory", .doc = "Writes the guest's memory to an ELF core file.", .since = "1.2"},
                .arguments = fields<DumpArgs>,
                .run_slow = dump_guest_memory}},
    control::Registered{command<query_dump>({.name = "query-dump",
                                             .doc = "How far the last dump has come.",
                                             .since = "2.6",
                                             .human = "info dump",
                                             .human_help = "info dump -- Display the latest dump status",
                                             .human_print = print_dump})},
    control::Registered{
        command<query_capability>({.name = "query-dump-guest-memory-capability", .doc = "Forms that a dump may have.", .since = "2.0"})},
};

}  // namespace
}  // namespace vm
}  // namespace vmm
