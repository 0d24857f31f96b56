#include "accel/qtest/server.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstring>

#include "src/base/host.h"
#include "src/vm/irq_access.h"

namespace vmm::qtest {

namespace {

constexpr u64 block_limit = 16 * MiB;   // of one read or write
constexpr usize line_limit = 40 * MiB;  // hexadecimal digits of the largest write
constexpr std::string_view unknown_device = "Unknown device";

// Decimal, 0x and octal, as strtoul(3) takes them.
Result<u64> number(std::string_view text) {
  std::string_view digits = text;
  int base = 10;
  if (digits.starts_with("0x") || digits.starts_with("0X"))
    digits.remove_prefix(2), base = 16;
  else if (digits.size() > 1 && digits[0] == '0')
    digits.remove_prefix(1), base = 8;
  u64 value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc{} || end != digits.data() + digits.size()) return fail("'{}' is not a number", text);
  return value;
}

Result<u64> block_size(std::string_view text) {
  const u64 size = TRY(number(text));
  if (size > block_limit) return fail("{} bytes are more than {}", size, block_limit);
  return size;
}

unsigned bytes_of(char suffix) { return suffix == 'b' ? 1 : suffix == 'w' ? 2 : suffix == 'l' ? 4 : 8; }

constexpr std::string_view base64_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string to_base64(std::span<const u8> bytes) {
  std::string out;
  for (usize i = 0; i < bytes.size(); i += 3) {
    const usize left = std::min<usize>(bytes.size() - i, 3);
    u32 group = 0;
    for (usize n = 0; n < 3; n++) group = group << 8 | (n < left ? bytes[i + n] : 0);
    for (usize n = 0; n < 4; n++) out += n <= left ? base64_digits[group >> (18 - 6 * n) & 63] : '=';
  }
  return out;
}

Result<std::vector<u8>> from_base64(std::string_view text) {
  std::vector<u8> out;
  u32 group = 0;
  unsigned bits = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (const char c : text) {
    const usize digit = base64_digits.find(c);
    if (digit == base64_digits.npos) return fail("'{}' is no digit of base 64", c);
    group = group << 6 | static_cast<u32>(digit), bits += 6;
    if (bits >= 8) bits -= 8, out.push_back(static_cast<u8>(group >> bits));
  }
  return out;
}

Result<std::vector<u8>> from_hex(std::string_view text) {
  if (!text.starts_with("0x")) return fail("data begin with 0x");
  text.remove_prefix(2);
  std::vector<u8> out;
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; };
  for (usize i = 0; i + 1 < text.size(); i += 2) {
    if (digit(text[i]) < 0 || digit(text[i + 1]) < 0) return fail("'{}' is no hexadecimal byte", text.substr(i, 2));
    out.push_back(static_cast<u8>(digit(text[i]) << 4 | digit(text[i + 1])));
  }
  return out;
}

}  // namespace

// --- Commands

struct Server::Row {
  std::string_view name;
  unsigned words;  // at least, with the name
  Result<std::string> (Server::*run)(const Words&);
};
constexpr Server::Row Server::rows[] = {
    {"outb", 3, &Server::port},
    {"outw", 3, &Server::port},
    {"outl", 3, &Server::port},
    {"inb", 2, &Server::port},
    {"inw", 2, &Server::port},
    {"inl", 2, &Server::port},
    {"writeb", 3, &Server::memory},
    {"writew", 3, &Server::memory},
    {"writel", 3, &Server::memory},
    {"writeq", 3, &Server::memory},
    {"readb", 2, &Server::memory},
    {"readw", 2, &Server::memory},
    {"readl", 2, &Server::memory},
    {"readq", 2, &Server::memory},
    {"read", 3, &Server::read_block},
    {"b64read", 3, &Server::read_block},
    {"write", 4, &Server::write_block},
    {"b64write", 4, &Server::write_block},
    {"memset", 4, &Server::set_block},
    {"clock_step", 1, &Server::clock},
    {"clock_set", 2, &Server::clock},
    {"irq_intercept_in", 2, &Server::intercept},
    {"irq_intercept_out", 2, &Server::intercept},
    {"set_irq_in", 5, &Server::set_irq},
    {"endianness", 1, &Server::endianness},
};

Result<std::string> Server::port(const Words& w) {
  const unsigned bytes = bytes_of(w[0].back());
  const u64 at = TRY(number(w[1]));
  if (at > 0xffff) return fail("there is no port {:#x}", at);
  if (w[0].starts_with("in")) return format("0x{:04x}", machine_.ports().load(GuestPhys{at}, bytes));
  machine_.ports().store(GuestPhys{at}, bytes, TRY(number(w[2])));
  return "";
}

Result<std::string> Server::memory(const Words& w) {
  const unsigned bytes = bytes_of(w[0].back());
  const u64 at = TRY(number(w[1]));
  if (w[0].starts_with("read")) return format("0x{:016x}", machine_.memory().load(GuestPhys{at}, bytes));
  machine_.memory().store(GuestPhys{at}, bytes, TRY(number(w[2])));
  return "";
}

Result<std::string> Server::read_block(const Words& w) {
  const u64 at = TRY(number(w[1]));
  std::vector<u8> bytes(TRY(block_size(w[2])));
  (void)machine_.memory().read(GuestPhys{at}, bytes);  // what is not there reads as zeros
  if (w[0] == "b64read") return to_base64(bytes);
  std::string out = "0x";
  for (const u8 b : bytes) out += "0123456789abcdef"[b >> 4], out += "0123456789abcdef"[b & 15];
  return out;
}

Result<std::string> Server::write_block(const Words& w) {
  const u64 at = TRY(number(w[1])), size = TRY(block_size(w[2]));
  std::vector<u8> bytes = w[0] == "write" ? TRY(from_hex(w[3])) : TRY(from_base64(w[3]));
  if (w[0] == "b64write" && bytes.size() != size) return fail("{} bytes of data for {}", bytes.size(), size);
  bytes.resize(size);
  (void)machine_.memory().write(GuestPhys{at}, bytes);
  return "";
}

Result<std::string> Server::set_block(const Words& w) {
  const u64 at = TRY(number(w[1]));
  const std::vector<u8> bytes(TRY(block_size(w[2])), static_cast<u8>(TRY(number(w[3]))));
  (void)machine_.memory().write(GuestPhys{at}, bytes);
  return "";
}

// To the next timer, or by so much, or to there; timers on the way run.
Result<std::string> Server::clock(const Words& w) {
  TimeDomain& time = machine_.time_domain();
  const Nanoseconds now = time.now(Clock::guest);
  Nanoseconds by = time.until_next();
  if (w.size() > 1) {
    const u64 given = TRY(number(w[1]));
    if (given > u64{1} << 62) return fail("{} ns are too many", given);
    by = Nanoseconds{static_cast<i64>(given)} - (w[0] == "clock_set" ? now : Nanoseconds{0});
  } else if (by == Nanoseconds::max()) {
    by = {};
  }
  time.advance(std::max(by, Nanoseconds{0}));
  return format("{}", time.now(Clock::guest).count());
}

Object* Server::find(std::string_view path) {
  if (auto found = root_object().resolve(path)) return found->get();
  // By type, which is how tests name the controllers.
  const auto search = [&](const auto& self, Object& below) -> Object* {
    if (below.type_info().name == path) return &below;
    for (const auto& child : below.children())
      if (Object* found = self(self, *child)) return found;
    return nullptr;
  };
  return search(search, machine_);
}

Result<std::string> Server::intercept(const Words& w) {
  Object* device = find(w[1]);
  auto* lines = dynamic_cast<vm::IrqAccess*>(&machine_);
  if (!device || !lines) return fail("{}", unknown_device);
  if (intercepted_ == device) return "";
  if (intercepted_) return fail("IRQ intercept already enabled");
  TRY(lines->intercept(*device, w[0] == "irq_intercept_in", [this](unsigned line, bool level) {
    if (intercepted_) say(format("IRQ {} {}", level ? "raise" : "lower", line));
  }));
  intercepted_ = device;
  return "";
}

Result<std::string> Server::set_irq(const Words& w) {
  Object* device = find(w[1]);
  auto* lines = dynamic_cast<vm::IrqAccess*>(&machine_);
  if (!device || !lines) return fail("{}", unknown_device);
  TRY(lines->set_input(*device, w[2], static_cast<unsigned>(TRY(number(w[3]))), TRY(number(w[4])) != 0));
  return "";
}

// --- Lines

Result<std::unique_ptr<Server>> Server::make(Ref<Chardev> chardev, vm::Machine& machine, const std::string& log) {
  std::unique_ptr<Server> server{new Server{std::move(chardev), machine}};
  if (!log.empty() && log != "none") {
    server->log_ = Fd{host::open_file(log, O_WRONLY | O_CREAT | O_TRUNC, 0644)};
    if (!server->log_) return fail("Could not open '{}': {}", log, std::strerror(errno));
  }
  TRY(server->chardev_->attach(*server));
  server->chardev_->accept_input();
  return server;
}

Server::~Server() {
  intercepted_ = nullptr;
  chardev_->detach(*this);
}

void Server::char_event(ChardevEvent event) {
  if (event != ChardevEvent::opened && event != ChardevEvent::closed) return;
  line_.clear(), answers_.clear();
  too_long_ = false;
  note('I', event == ChardevEvent::opened ? "OPENED" : "CLOSED");
}

void Server::receive(std::span<const u8> bytes) {
  for (const u8 byte : bytes) {
    if (byte != '\n') {
      if (line_.size() < line_limit)
        line_ += static_cast<char>(byte);
      else
        too_long_ = true;
      continue;
    }
    const std::string text = std::exchange(line_, {});
    if (std::exchange(too_long_, false))
      say("FAIL A line is too long");
    else
      line(text);
  }
}

void Server::line(std::string_view text) {
  if (text.ends_with('\r')) text.remove_suffix(1);
  note('R', text);
  Words words;
  for (usize at = 0; at < text.size();) {
    const usize end = std::min(text.find(' ', at), text.size());
    if (end > at) words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  if (words.empty()) return;
  for (const Row& row : rows) {
    if (row.name != words[0]) continue;
    // Where the CPUs run, so does the clock.
    if (row.run == &Server::clock && machine_.accelerator().short_name() != "qtest") break;
    if (words.size() < row.words) return say(format("FAIL {} takes {} words", row.name, row.words - 1));
    const auto answer = (this->*row.run)(words);
    if (!answer) return say(format("FAIL {}", answer.error().message));
    return say(answer->empty() ? "OK" : format("OK {}", *answer));
  }
  say(format("FAIL Unknown command '{}'", words[0]));
}

void Server::say(std::string_view answer) {
  note('S', answer);
  answers_ += answer;
  answers_ += '\n';
  flush();
}

void Server::flush() {
  const usize sent = answers_.empty() ? 0 : chardev_->write({reinterpret_cast<const u8*>(answers_.data()), answers_.size()});
  answers_.erase(0, sent);
  if (sent && answers_.empty()) chardev_->accept_input();
}

void Server::note(char direction, std::string_view text) {
  if (!log_) return;
  const Nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
  if (opened_ == Nanoseconds{}) opened_ = now;
  const std::string out = format("[{} +{:.6f}] {}\n", direction, std::chrono::duration<double>(now - opened_).count(), text);
  (void)!::write(log_.get(), out.data(), out.size());
}

}  // namespace vmm::qtest
