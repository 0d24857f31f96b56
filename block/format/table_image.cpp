#include "block/format/table_image.h"

#include <algorithm>

namespace vmm::block {

Task<> TableImage::read_below(u64 offset, IoVector into) {
  Edge* below = child("backing");
  const u64 end = below ? below->length_bytes() : 0;
  IoVector inside = into.take(offset < end ? end - offset : 0);
  into.fill(0);
  if (!inside.empty()) co_await below->read(offset, inside);
  co_return Result<>{};
}

Task<> TableImage::read(u64 offset, IoVector into) {
  while (!into.empty()) {
    const u64 index = offset / block_bytes_, at = offset % block_bytes_;
    IoVector part = into.take(block_bytes_ - at);
    const u64 size = part.size();
    const u64 place = index < table_.size() ? table_[index] : absent;
    const bool answered = place != absent && place != zero && co_await read_block(index, at, part);
    if (answered) {
      // the format knows better
    } else if (place == absent) {
      co_await read_below(offset, part);
    } else if (place == zero) {
      part.fill(0);
    } else {
      co_await file().read(place + at, part);
    }
    offset += size;
  }
  co_return Result<>{};
}

Task<> TableImage::write(u64 offset, IoVector from, WriteFlags flags) {
  while (!from.empty()) {
    const u64 index = offset / block_bytes_, at = offset % block_bytes_;
    IoVector part = from.take(block_bytes_ - at);
    const u64 size = part.size();
    if (index >= table_.size()) co_return fail_os(EIO, "the request is past the image's table");
    if (table_[index] == absent || table_[index] == zero) {
      const auto guard = co_await allocating_.lock();
      const u64 place = table_[index];
      if (place == absent || place == zero) {
        Buffer block{block_bytes_};
        std::ranges::fill(block.span(), u8{0});
        const u64 begin = index * block_bytes_;
        if (place == absent && child("backing"))
          co_await read_below(begin, IoVector{block.data(), std::min(block_bytes_, length_ - begin)});
        part.copy_out(block.span().subspan(at));
        const u64 claimed = co_await claim_block(index);
        co_await file().write(claimed, block.vector());
        table_[index] = claimed;
        const Result<> stored = co_await attempt(store_entry(index));
        if (!stored) {
          table_[index] = place;
          co_return stored;
        }
        offset += size;
        continue;
      }
    }
    co_await file().write(table_[index] + at, part);
    offset += size;
  }
  if (flags.fua) co_await file().flush();
  co_return Result<>{};
}

Task<Extent> TableImage::map(u64 offset, u64 length) {
  const auto place = [this](u64 index) { return index < table_.size() ? table_[index] : absent; };
  const u64 first = place(offset / block_bytes_);
  Extent e;
  e.kind = first == absent ? Extent::Kind::backing : first == zero ? Extent::Kind::zero : Extent::Kind::data;
  e.present = first != absent;
  if (e.kind == Extent::Kind::data) e.host_offset = first + offset % block_bytes_, e.has_host_offset = true;
  u64 have = block_bytes_ - offset % block_bytes_;
  for (u64 index = offset / block_bytes_ + 1; have < length; index++, have += block_bytes_) {
    const u64 next = place(index);
    if (e.has_host_offset ? next != e.host_offset + have : next != first) break;
  }
  e.length = std::min(have, length);
  co_return e;
}

}  // namespace vmm::block
