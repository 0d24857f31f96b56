#include "src/base/log.h"

#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <map>
#include <mutex>
#include <vector>

#include "src/base/host.h"
#include "src/base/lock.h"

namespace vmm {
std::atomic<u32> log_mask{0};

namespace {
constexpr LogItemName names[] = {
    {LogItem::out_asm, "out_asm", "show generated host assembly for each translated block"},
    {LogItem::in_asm, "in_asm", "show guest assembly for each translated block"},
    {LogItem::op, "op", "show the intermediate code of each translated block"},
    {LogItem::interrupts, "int", "show interrupts and exceptions in short form"},
    {LogItem::exec, "exec", "show each block as it is entered (slow)"},
    {LogItem::cpu, "cpu", "show CPU registers before each block is entered (slow)"},
    {LogItem::mmu, "mmu", "log address translation"},
    {LogItem::pcall, "pcall", "log far calls and returns of protected mode"},
    {LogItem::cpu_reset, "cpu_reset", "show CPU state before each reset"},
    {LogItem::unimp, "unimp", "log functionality that is not modelled"},
    {LogItem::guest_errors, "guest_errors", "log mistakes of the guest, such as access to a register that does not exist"},
    {LogItem::page, "page", "dump the memory map at its changes"},
    {LogItem::nochain, "nochain", "do not join blocks, so that exec and cpu show each one"},
    {LogItem::trace, "trace", "show trace events"},
};
struct Output {
  Mutex mutex;
  std::FILE* file = stderr;
  std::vector<std::pair<u64, u64>> ranges;  // inclusive
  std::map<std::string, std::pair<u32, std::time_t>, std::less<>> guest_error_counts;
  std::string program = "vmm";
  bool timestamps = false;
};
Output& output() {
  static Output it;
  return it;
}
Result<u64> number(std::string_view text) {
  const std::string_view whole = text;
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) text.remove_prefix(2), base = 16;
  u64 v = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v, base);
  if (ec != std::errc{} || end != text.data() + text.size()) return fail("'{}' is not an address", whole);
  return v;
}
void report(std::string_view kind, std::string_view message) {
  Output& out = output();
  Lock lock{out.mutex};
  std::string stamp;
  if (out.timestamps) {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    tm utc;
    gmtime_r(&now.tv_sec, &utc);
    stamp = format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z ", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                   utc.tm_sec, now.tv_nsec / 1000);
  }
  std::fprintf(stderr, "%s%s: %.*s%.*s\n", stamp.c_str(), out.program.c_str(), int(kind.size()), kind.data(), int(message.size()),
               message.data());
}
}  // namespace

std::span<const LogItemName> log_item_names() { return names; }

Result<> log_set_items(std::string_view list) {
  u32 mask = 0;
  while (!list.empty()) {
    const auto comma = list.find(',');
    const std::string_view word = list.substr(0, comma);
    list = comma == list.npos ? std::string_view{} : list.substr(comma + 1);
    if (word.empty() || word == "none") continue;
    const auto* found = std::ranges::find(names, word, &LogItemName::name);
    if (found != std::end(names))
      mask |= static_cast<u32>(found->item);
    else if (word == "all")
      for (const auto& n : names) mask |= static_cast<u32>(n.item);
    else
      return fail("unknown log item '{}'; '-d help' lists them", word);
  }
  log_mask = mask;
  return {};
}

Result<> log_set_file(const std::string& path) {
  Output& out = output();
  std::FILE* file = stderr;
  if (!path.empty()) {
    Fd fd{host::open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0666)};
    file = fd ? ::fdopen(fd.get(), "w") : nullptr;
    if (file) fd.release();
  }
  if (!file) return fail_errno(format("Could not open log file '{}'", path));
  Lock lock{out.mutex};
  if (out.file != stderr) std::fclose(out.file);
  out.file = file;
  if (file != stderr) std::setvbuf(file, nullptr, _IOLBF, 0);
  return {};
}

Result<> log_set_filter(std::string_view text) {
  std::vector<std::pair<u64, u64>> ranges;
  while (!text.empty()) {
    const auto comma = text.find(',');
    const std::string_view word = text.substr(0, comma);
    text = comma == text.npos ? std::string_view{} : text.substr(comma + 1);
    const auto dots = word.find("..");
    const auto sign = word.find_first_of("+-");
    if (dots != word.npos) {
      ranges.push_back({TRY(number(word.substr(0, dots))), TRY(number(word.substr(dots + 2)))});
    } else if (sign != word.npos) {
      const u64 at = TRY(number(word.substr(0, sign))), length = TRY(number(word.substr(sign + 1)));
      if (word[sign] == '+')
        ranges.push_back({at, at + length - 1});
      else
        ranges.push_back({at - length + 1, at});
    } else {
      return fail("'{}' is not a range; write START..END, START+LENGTH or END-LENGTH", word);
    }
  }
  Lock lock{output().mutex};
  output().ranges = std::move(ranges);
  return {};
}

bool log_address_wanted(u64 address) {
  Output& out = output();
  Lock lock{out.mutex};
  if (out.ranges.empty()) return true;
  return std::ranges::any_of(out.ranges, [&](auto r) { return address >= r.first && address <= r.second; });
}

void log_write(std::string_view text) {
  Output& out = output();
  Lock lock{out.mutex};
  std::fwrite(text.data(), 1, text.size(), out.file);
}

void guest_error_text(std::string_view who, std::string_view text) {
  constexpr u32 per_second = 20;
  {
    Output& out = output();
    Lock lock{out.mutex};
    auto it = out.guest_error_counts.find(who);
    if (it == out.guest_error_counts.end()) it = out.guest_error_counts.emplace(std::string{who}, std::pair{0u, std::time_t{0}}).first;
    auto& [count, second] = it->second;
    const std::time_t now = std::time(nullptr);
    if (now != second) second = now, count = 0;
    if (++count > per_second) return;
    if (count == per_second) text = "(more such errors this second are not shown)";
  }
  log_write(format("{}: {}\n", who, text));
}

void set_program_name(std::string name) { output().program = std::move(name); }
std::string_view program_name() { return output().program; }
void set_message_timestamps(bool on) { output().timestamps = on; }
void report_error(const Error& error) {
  report("", error.message);
  if (!error.hint.empty()) std::fprintf(stderr, "%s\n", error.hint.c_str());
}
void report_error(std::string_view message) { report("", message); }
void report_warning(std::string_view message) { report("warning: ", message); }
void report_info(std::string_view message) { report("info: ", message); }
}  // namespace vmm
