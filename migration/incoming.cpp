// See incoming.h.
#include "migration/incoming.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <thread>

#include "migration/stream.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/base/thread_name.h"
#include "src/chardev/address.h"
#include "src/control/command.h"
#include "src/memory/ram.h"
#include "src/value/cbor.h"
#include "src/vm/state.h"

namespace vmm::migration {

namespace {

constexpr u64 page = memory::page_bytes;

class Incoming {
 public:
  Incoming(vm::Machine& machine, bool start, bool stay) : machine_(machine), start_(start), stay_(stay) {}
  ~Incoming() {
    channel_.cancel();
    if (thread_.joinable()) thread_.join();
  }
  Result<> open(const std::string& uri);
  void set_stay(bool stay) { stay_ = stay; }
  bool idle() const { return !listener_ && !thread_.joinable(); }

 private:
  void accept_one();
  void begin();
  Result<> receive();
  Result<> take_machine(const Value& machine);
  Result<> take_pages(std::span<const u8> payload);
  Result<> take_section(std::span<const u8> payload);
  void complete(Result<> received);
  Result<> commit();

  vm::Machine& machine_;
  bool start_, stay_;
  Fd listener_;
  std::string socket_path_;
  FdWatch watch_;
  Channel channel_;
  std::vector<memory::RamBlock*> blocks_;  // by the numbers of the stream
  std::map<std::string, Value> sections_;
  u64 section_bytes_ = 0;
  std::thread thread_;
};
std::unique_ptr<Incoming> incoming;

Result<> Incoming::open(const std::string& uri) {
  const bool unix_ = uri.starts_with("unix:");
  if (!unix_ && !uri.starts_with("tcp:")) {
    TRY(channel_.open(uri));
    begin();
    return {};
  }
  SocketAddress address;
  if (unix_) {
    address.path = socket_path_ = uri.substr(5);
  } else {
    const auto colon = uri.rfind(':');
    if (colon < 4) return fail("no port in '{}'", uri);
    address.host = uri.substr(4, colon - 4), address.port = uri.substr(colon + 1);
    if (address.host.starts_with('[') && address.host.ends_with(']')) address.host = address.host.substr(1, address.host.size() - 2);
  }
  listener_ = TRY(listen_on(address, 0, AF_UNSPEC));
  watch_.start(machine_.main_loop(), listener_.get(), EPOLLIN, [this](u32) { accept_one(); });
  return {};
}

void Incoming::accept_one() {
  Fd fd{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)};
  if (!fd) return;
  watch_.stop();
  listener_.reset();
  if (!socket_path_.empty()) ::unlink(socket_path_.c_str());
  channel_.adopt(std::move(fd), true);
  begin();
}

void Incoming::begin() {
  thread_ = std::thread{[this] {
    name_this_thread("incoming");
    auto received = receive();
    machine_.main_loop().post([this, received = std::move(received)]() mutable { complete(std::move(received)); });
  }};
}

Result<> Incoming::receive() {
  Reader reader{channel_};
  TRY(reader.head());
  const auto first = TRY(reader.next());
  if (first.kind != Part::machine) return fail("the stream does not begin with the machine");
  TRY(take_machine(TRY(parse_cbor(first.payload))));
  for (;;) {
    const auto part = TRY(reader.next());
    switch (part.kind) {
      case Part::pages: TRY(take_pages(part.payload)); break;
      case Part::section: TRY(take_section(part.payload)); break;
      case Part::end: return {};
      default: return fail("a part of the unknown kind {}", static_cast<u32>(part.kind));
    }
  }
}

Result<> Incoming::take_machine(const Value& machine) {
  MachineLocked lock;
  const Value *type = machine.find("type"), *ram = machine.find("ram");
  if (!type || !type->is_string() || !ram || !ram->is_list()) return fail("the stream does not say which machine it is");
  if (type->get_string() != machine_.type_info().name)
    return fail("the machine that comes is a '{}', this one a '{}'", type->get_string(), machine_.type_info().name);
  auto mine = memory::ram_blocks();
  for (const Value& v : ram->items()) {
    const Value *name = v.find("name"), *bytes = v.find("bytes");
    if (!name || !name->is_string() || !bytes) return fail("RAM of the stream has no name");
    const u64 size = TRY(bytes->as_u64("bytes"));
    const auto found = std::ranges::find_if(mine, [&](memory::RamBlock* b) { return b && b->name() == name->get_string(); });
    if (found == mine.end()) return fail("RAM '{}' is not there on this side", name->get_string());
    if ((*found)->size_bytes() != size)
      return fail("RAM '{}' has {} bytes there and {} here", name->get_string(), size, (*found)->size_bytes());
    blocks_.push_back(*found);
    *found = nullptr;
  }
  for (const memory::RamBlock* b : mine)
    if (b) return fail("RAM '{}' is not there on the other side", b->name());
  return {};
}

Result<> Incoming::take_pages(std::span<const u8> payload) {
  if (payload.size() < 16) return fail("pages without a head");
  const u32 n = load_le<u32>(&payload[0]), count = load_le<u32>(&payload[4]);
  const u64 first = load_le<u64>(&payload[8]);
  if (n >= blocks_.size()) return fail("pages of the unknown RAM {}", n);
  memory::RamBlock& block = *blocks_[n];
  const u64 pages = block.size_bytes() / page;
  if (!count || count > pages_a_part || first >= pages || count > pages - first)
    return fail("pages beyond the end of RAM '{}'", block.name());
  const std::span<const u8> map = payload.subspan(16);
  if (map.size() < (count + 7) / 8) return fail("pages without their map");
  std::span<const u8> bytes = map.subspan((count + 7) / 8);
  for (u32 i = 0; i < count; i++) {
    u8* const host = block.host() + (first + i) * page;
    if (!(map[i / 8] >> (i % 8) & 1)) {
      // What is zero already stays untouched: no host page is made for it.
      static constexpr std::array<u8, page> zeros{};
      if (std::memcmp(host, zeros.data(), page) != 0) std::memset(host, 0, page);
      continue;
    }
    if (bytes.size() < page) return fail("pages that end too early");
    std::memcpy(host, bytes.data(), page);
    bytes = bytes.subspan(page);
  }
  if (!bytes.empty()) return fail("pages with more than their bytes");
  return {};
}

Result<> Incoming::take_section(std::span<const u8> payload) {
  if ((section_bytes_ += payload.size()) > longest_section) return fail("sections are too long in all");
  Value v = TRY(parse_cbor(payload));
  const Value *name = v.find("name"), *state = v.find("state");
  if (!name || !name->is_string() || !state) return fail("a section without a name");
  if (!sections_.emplace(name->get_string(), *state).second) return fail("section '{}' comes twice", name->get_string());
  return {};
}

Result<> Incoming::commit() {
  vm::StateSections all = vm::state_sections(machine_);
  for (const vm::StateSection& s : all.sections)
    if (!sections_.contains(s.name)) return fail("section '{}' is missing: that machine has no such device", s.name);
  for (const auto& [name, state] : sections_)
    if (std::ranges::none_of(all.sections, [&](const vm::StateSection& s) { return s.name == name; }))
      return fail("section '{}' is unknown: this machine has no such device", name);
  memory::Transaction transaction;
  for (const vm::StateSection& s : all.sections)
    if (auto loaded = s.load(sections_.at(s.name)); !loaded)
      return std::unexpected(std::move(loaded.error()).within(format("section '{}'", s.name)));
  for (auto& f : all.afterwards) f();
  return {};
}

void Incoming::complete(Result<> received) {
  if (received) received = commit();
  if (!received) {
    if (channel_.answers()) static_cast<void>(channel_.write(std::array<u8, 1>{0}));
    report_error(format("load of migration failed: {}", received.error().message));
    if (!stay_) machine_.run_state().request_shutdown(vm::Cause::host_error, 1);
    return;
  }
  if (channel_.answers()) {
    if (auto told = channel_.write(std::array<u8, 1>{1}); !told) {
      report_error(format("load of migration failed: {}", told.error().message));
      if (!stay_) machine_.run_state().request_shutdown(vm::Cause::host_error, 1);
      return;
    }
  }
  bool ours = true;
  if (channel_.answers()) {
    u8 go = 0;
    ours = channel_.read({&go, 1}).has_value() && go == 1;
  }
  static_cast<void>(channel_.finish());
  machine_.run_state().stop(vm::Status::paused);
  if (!ours) return report_error("the machine is complete here, but its source has not let go of it: it is paused ('cont' runs it)");
  if (start_) machine_.run_state().start();
}

}  // namespace

Result<> wait_for_machine(vm::Machine& machine, const std::string& uri, bool start, bool stay) {
  machine.run_state().stop(vm::Status::inmigrate);
  incoming = std::make_unique<Incoming>(machine, start, stay);
  if (uri == "defer") return {};
  return incoming->open(uri);
}

bool awaits_uri() { return incoming && incoming->idle(); }
Result<> open_incoming(const std::string& uri, bool stay) {
  incoming->set_stay(stay);
  return incoming->open(uri);
}

}  // namespace vmm::migration
