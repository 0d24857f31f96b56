// Messages for the user (stderr) and the `-d` log. The log level is one of the three permitted globals. Any thread.
#pragma once

#include <atomic>
#include <span>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm {

// `-d` items. Names as users know them: in_asm op out_asm int exec cpu guest_errors unimp …
enum class LogItem : u32 {
  in_asm = 1 << 0,
  op = 1 << 1,
  out_asm = 1 << 2,
  interrupts = 1 << 3,
  exec = 1 << 4,
  cpu = 1 << 5,
  guest_errors = 1 << 6,
  unimp = 1 << 7,
  mmu = 1 << 8,
  page = 1 << 9,
  nochain = 1 << 10,
  trace = 1 << 11,
  cpu_reset = 1 << 12,
  pcall = 1 << 13,
};
struct LogItemName {
  LogItem item;
  std::string_view name, doc;
};
std::span<const LogItemName> log_item_names();

extern std::atomic<u32> log_mask;  // union of LogItem bits
inline bool log_enabled(LogItem item) { return log_mask.load(std::memory_order_relaxed) & static_cast<u32>(item); }
Result<> log_set_items(std::string_view comma_list);  // "int,cpu"; unknown names are errors
Result<> log_set_file(const std::string& path);       // `-D`; empty: stderr
Result<> log_set_filter(std::string_view ranges);     // `-dfilter 0x8000..0x8fff,0xffffffff81000000+0x200`
bool log_address_wanted(u64 address);                 // true without a filter
void log_write(std::string_view text);                // raw text to the log

template <class... Args>
void log(LogItem item, fmt::format_string<Args...> text, Args&&... args) {
  if (log_enabled(item)) [[unlikely]]
    log_write(fmt::format(text, std::forward<Args>(args)...));
}

// A guest's mistake: one line with -d guest_errors, rate-limited a source (`who` is a static string such as a type name).
void guest_error_text(std::string_view who, std::string_view text);
template <class... Args>
void guest_error(std::string_view who, fmt::format_string<Args...> text, Args&&... args) {
  if (log_enabled(LogItem::guest_errors)) [[unlikely]]
    guest_error_text(who, fmt::format(text, std::forward<Args>(args)...));
}
template <class... Args>
void unimplemented(std::string_view who, fmt::format_string<Args...> text, Args&&... args) {
  if (log_enabled(LogItem::unimp)) [[unlikely]]
    log_write(fmt::format("{}: {}\n", who, fmt::format(text, std::forward<Args>(args)...)));
}

// stderr, "PROGRAM: message" / "PROGRAM: warning: message"; a time stamp first with `-msg timestamp=on`.
void set_program_name(std::string name);
std::string_view program_name();
void set_message_timestamps(bool on);
void report_error(const Error& error);
void report_error(std::string_view message);
void report_warning(std::string_view message);
void report_info(std::string_view message);

}  // namespace vmm
