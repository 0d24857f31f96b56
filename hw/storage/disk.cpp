#include "hw/storage/disk.h"

#include <bit>

#include "src/event/loop_local.h"

namespace vmm::hw {

Result<> DiskProperties::settle(u32 most_cylinders, u32 most_heads, u32 most_sectors) {
  if (!drive) return fail("drive property not set");
  const auto block_size = [](std::string_view name, Bytes64& size, u64 by_default) -> Result<> {
    if (!size.value) size.value = by_default;
    if (size.value < 512 || size.value > 2 * MiB || !std::has_single_bit(size.value))
      return fail("'{}' takes a power of two between 512 and 2097152, not {}", name, size.value);
    return {};
  };
  TRY(block_size("logical_block_size", logical_block, 512));
  TRY(block_size("physical_block_size", physical_block, logical_block.value));
  if (logical_block > physical_block) return fail("logical_block_size > physical_block_size not supported");
  const auto multiple = [&](std::string_view name, u64 size, u64 most) -> Result<> {
    if (size % logical_block.value) return fail("{} must be a multiple of logical_block_size", name);
    if (size / logical_block.value > most) return fail("{} must not be more than {} logical blocks", name, most);
    return {};
  };
  TRY(multiple("min_io_size", min_io, 0xffff));
  TRY(multiple("opt_io_size", opt_io, 0xffff'ffff));
  if (discard_granularity.value != ~u32{0}) TRY(multiple("discard_granularity", discard_granularity, 0xffff'ffff));
  if (cylinders || heads || sectors) {
    if (!cylinders || cylinders > most_cylinders) return fail("cyls must be between 1 and {}", most_cylinders);
    if (!heads || heads > most_heads) return fail("heads must be between 1 and {}", most_heads);
    if (!sectors || sectors > most_sectors) return fail("secs must be between 1 and {}", most_sectors);
  } else if (drive->length_bytes()) {
    // A guess, as BIOSes make it: 16 heads of 63 sectors.
    heads = std::min(16u, most_heads), sectors = std::min(63u, most_sectors);
    cylinders = static_cast<u32>(std::clamp<u64>(drive->length_bytes() / 512 / (heads * sectors), 2, std::min(16383u, most_cylinders)));
  }
  if (legacy_cylinders || legacy_heads || legacy_sectors)
    if (!legacy_cylinders || !legacy_heads || !legacy_sectors) return fail("lcyls, lheads and lsecs must be given together");
  block::ErrorPolicy read = rerror, write = werror;
  if (read == block::ErrorPolicy::automatic) read = drive->options().read_error;
  if (write == block::ErrorPolicy::automatic) write = drive->options().write_error;
  drive->set_error_policies(read, write);
  if (write_cache != OnOffAuto::automatic) drive->set_write_cache(write_cache == OnOffAuto::on);
  return {};
}

// --- Requests

Result<> DiskRequests::open(vm::Machine& machine, block::BackendClient& client, const DiskProperties& disk, bool writes) {
  TRY(disk.drive->attach(client));
  if (auto started = disk.drive->start(writes && !disk.drive->read_only(), disk.share_rw); !started) {
    disk.drive->detach(client);
    return started;
  }
  drive_ = disk.drive, client_ = &client;
  open_ = true;
  when_running_.start(machine, [this] { go_on(); });
  return {};
}

DiskRequests::~DiskRequests() {
  if (drive_) drive_->detach(*client_);
}

void DiskRequests::shut() {
  when_running_.stop();
  open_ = false;
  give_up();
}

void DiskRequests::abandon() {
  shut();
  drive_->detach(*client_);
}

Task<> DiskRequests::close() {
  shut();
  co_await drive_->drained();
  drive_->detach(*client_);
  co_return Result<>{};
}

void DiskRequests::give_up() {
  era_++;
  go_on();
}

void DiskRequests::go_on() {
  std::vector<std::pair<EventLoop*, std::coroutine_handle<>>> all;
  {
    Lock lock{mutex_};
    all.swap(kept_);
  }
  for (auto [loop, waiter] : all)
    if (loop == current_loop())
      waiter.resume();
    else
      loop->post([waiter] { waiter.resume(); });
}

struct DiskRequests::Kept {
  DiskRequests& requests;
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> waiter) {
    Lock lock{requests.mutex_};
    requests.kept_.emplace_back(current_loop(), waiter);
  }
  void await_resume() const {}
};

template <class F>
Task<> DiskRequests::send(block::Operation operation, u64 bytes, F request) {
  const block::BackendRef drive = drive_;
  const u32 era = era_;
  for (;;) {
    const auto begun = std::chrono::steady_clock::now();
    Result<> done = co_await attempt(request(*drive));
    drive->account(operation, bytes, std::chrono::steady_clock::now() - begun, done.has_value());
    if (done || !open_) co_return done;
    const auto action = drive->error_action(operation, done.error());
    if (action == block::Backend::Action::ignore) co_return Result<>{};
    if (action == block::Backend::Action::report || era != era_) co_return done;
    co_await Kept{*this};
    if (era != era_) co_return done;  // nobody waits for it any more
  }
}

Task<> DiskRequests::read(u64 offset, block::IoVector into) {
  const u64 bytes = into.size();
  return send(block::Operation::read, bytes, [offset, into = std::move(into)](block::Backend& d) { return d.read(offset, into); });
}
Task<> DiskRequests::write(u64 offset, block::IoVector from, bool fua) {
  const u64 bytes = from.size();
  return send(block::Operation::write, bytes,
              [offset, fua, from = std::move(from)](block::Backend& d) { return d.write(offset, from, {.fua = fua}); });
}
Task<> DiskRequests::flush() {
  return send(block::Operation::flush, 0, [](block::Backend& d) { return d.flush(); });
}
Task<> DiskRequests::zero(u64 offset, u64 length, block::ZeroFlags flags) {
  return send(block::Operation::write, length, [=](block::Backend& d) { return d.zero(offset, length, flags); });
}
Task<> DiskRequests::discard(u64 offset, u64 length) {
  return send(block::Operation::unmap, length, [=](block::Backend& d) { return d.discard(offset, length); });
}
Task<> DiskRequests::ask(block::Operation operation, u64 bytes, std::function<Task<>(block::Edge&)> question) {
  return send(operation, bytes, [question = std::move(question)](block::Backend& d) { return d.inspect(question); });
}

}  // namespace vmm::hw
