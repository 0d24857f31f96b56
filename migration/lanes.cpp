// See lanes.h. Packing: zstd's manual, "Simple API".
#include "migration/lanes.h"

#include <zstd.h>

#include <array>

#include "src/base/bits.h"
#include "src/base/thread_name.h"
#include "src/value/cbor.h"

namespace vmm::migration {

// --- The source

LanesOut::~LanesOut() { hang_up(); }

void LanesOut::hang_up() {
  {
    const std::lock_guard lock{mutex_};
    ending_ = true;
  }
  changed_.notify_all();
  cancel();
  for (const auto& lane : lanes_) {
    if (lane->thread.joinable()) lane->thread.join();
    lane->channel.hang_up();
  }
}

void LanesOut::cancel() {
  const std::lock_guard lock{list_mutex_};
  for (const auto& lane : lanes_) lane->channel.cancel();
}

Result<> LanesOut::open(const std::string& uri, unsigned count) {
  for (unsigned n = 0; n < count; n++) {
    auto lane = std::make_unique<Lane>();
    TRY(lane->channel.connect(uri));
    TRY(lane->writer.head());
    TRY(lane->writer.described(Part::lane, Value::object().set("number", u64{n}).set("of", u64{count})));
    const std::lock_guard lock{list_mutex_};
    lanes_.push_back(std::move(lane));
  }
  for (const auto& lane : lanes_)
    lane->thread = std::thread{[this, &lane = *lane] {
      name_this_thread("lane");
      work(lane);
    }};
  return {};
}

u64 LanesOut::bytes() const {
  const std::lock_guard lock{list_mutex_};
  u64 n = 0;
  for (const auto& lane : lanes_) n += lane->channel.bytes();
  return n;
}

void LanesOut::work(Lane& lane) {
  std::vector<u8> plain, packed;
  std::unique_lock lock{mutex_};
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || !jobs_.empty(); });
    if (ending_) return;
    const Job job = jobs_.front();
    jobs_.pop_front();
    busy_++;
    changed_.notify_all();
    lock.unlock();
    auto sent = send_one(lane, job, plain, packed);
    lock.lock();
    busy_--;
    if (!sent && !error_) error_ = std::move(sent.error());
    changed_.notify_all();
  }
}

Result<> LanesOut::send_one(Lane& lane, const Job& job, std::vector<u8>& room, std::vector<u8>& packed) {
  const std::span<const u8> plain = machine_.build_pages(job.block, job.first, job.count, room);
  if (packing_ == Packing::none) return lane.writer.part(Part::pages, plain);
  packed.resize(::ZSTD_compressBound(longest_pages));
  thread_local const std::unique_ptr<ZSTD_CCtx, usize (*)(ZSTD_CCtx*)> context{::ZSTD_createCCtx(), ::ZSTD_freeCCtx};
  if (!context) return fail("out of memory");
  const usize n = ::ZSTD_compressCCtx(context.get(), packed.data(), packed.size(), plain.data(), plain.size(), level_);
  if (::ZSTD_isError(n) || n >= plain.size()) return lane.writer.part(Part::pages, plain);
  return lane.writer.part(Part::packed, std::span{packed}.first(n));
}

Result<> LanesOut::send(u32 block, u64 first, u64 count) {
  std::unique_lock lock{mutex_};
  changed_.wait(lock, [&] { return error_ || jobs_.size() < 2 * lanes_.size(); });
  if (error_) return std::unexpected(*error_);
  jobs_.push_back({block, first, count});
  lock.unlock();
  changed_.notify_all();
  return {};
}

Result<> LanesOut::mark(u32 round) {
  std::unique_lock lock{mutex_};
  changed_.wait(lock, [&] { return error_ || (jobs_.empty() && !busy_); });
  if (error_) return std::unexpected(*error_);
  std::array<u8, 4> word;
  store_le<u32>(word.data(), round);
  for (const auto& lane : lanes_) TRY(lane->writer.part(Part::sync, word));  // their threads wait for work
  return {};
}

// --- The target

LanesIn::~LanesIn() {
  cancel();
  for (const auto& lane : lanes_)
    if (lane->thread.joinable()) lane->thread.join();
}

void LanesIn::cancel() {
  {
    const std::lock_guard lock{mutex_};
    ending_ = true;
  }
  changed_.notify_all();
  const std::lock_guard lock{list_mutex_};
  for (const auto& lane : lanes_) lane->channel.cancel();
}

Result<> LanesIn::open(Channel& first, int listener, unsigned count) {
  if (listener < 0 && count) return fail("the stream comes on {} further connections, which this kind of channel has not", count);
  for (unsigned n = 0; n < count; n++) {
    auto lane = std::make_unique<Lane>();
    lane->channel.adopt(TRY(first.accept(listener)), true);
    const std::lock_guard lock{list_mutex_};
    lanes_.push_back(std::move(lane));
  }
  for (const auto& lane : lanes_)
    lane->thread = std::thread{[this, &lane = *lane] {
      name_this_thread("lane");
      work(lane);
    }};
  return {};
}

void LanesIn::work(Lane& lane) {
  auto done = read(lane);
  const std::lock_guard lock{mutex_};
  if (!done && !error_ && !ending_) error_ = std::move(done.error());
  changed_.notify_all();
}

Result<> LanesIn::read(Lane& lane) {
  Reader reader{lane.channel};
  TRY(reader.head());
  if (TRY(reader.next()).kind != Part::lane) return fail("a further connection does not say what it is");
  for (u32 round = 0;;) {
    const auto part = TRY(reader.next());
    switch (part.kind) {
      case Part::pages:
      case Part::packed: TRY(machine_.take(part)); break;
      case Part::sync: {
        if (part.payload.size() != 4 || load_le<u32>(part.payload.data()) != round) return fail("a further connection is out of step");
        std::unique_lock lock{mutex_};
        arrived_++;
        changed_.notify_all();
        changed_.wait(lock, [&] { return ending_ || error_ || passed_ > round; });
        if (ending_ || error_) return {};
        round++;
        break;
      }
      default: return fail("a part of the kind {} on a further connection", static_cast<u32>(part.kind));
    }
  }
}

Result<> LanesIn::pass(u32 round) {
  std::unique_lock lock{mutex_};
  if (round != passed_) return fail("the connections are out of step");
  changed_.wait(lock, [&] { return ending_ || error_ || arrived_ == lanes_.size(); });
  if (error_) return std::unexpected(*error_);
  if (ending_) return fail(ErrorClass::cancelled, "cancelled");
  arrived_ = 0;
  passed_++;
  changed_.notify_all();
  return {};
}

}  // namespace vmm::migration
