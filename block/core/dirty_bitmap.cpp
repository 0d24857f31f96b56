#include "block/core/dirty_bitmap.h"

#include <algorithm>
#include <bit>

namespace vmm::block {

namespace {
struct Placed {
  std::weak_ptr<BlockNode> node;
  BitmapRef bitmap;
};
std::vector<Placed>& placed() {
  static auto& it = *new std::vector<Placed>;
  return it;
}
}  // namespace

DirtyBitmap::DirtyBitmap(std::string name, u64 length_bytes, u32 granularity)
    : name_(std::move(name)), granularity_(granularity), words_(length_bytes / granularity / 64 + 1) {}

u64 DirtyBitmap::dirty_bytes() const {
  Lock lock{mutex_};
  u64 count = 0;
  for (const u64 w : words_) count += u64(std::popcount(w));
  return count * granularity_;
}
void DirtyBitmap::set(u64 offset, u64 length) {
  Lock lock{mutex_};
  set_locked(offset, length);
}
void DirtyBitmap::set_locked(u64 offset, u64 length) {
  if (!length) return;
  const u64 first = offset / granularity_, last = (offset + length - 1) / granularity_;
  if (last / 64 >= words_.size()) words_.resize(last / 64 + 1);
  for (u64 i = first; i <= last;) {
    if (i % 64 == 0 && last - i >= 63) {
      words_[i / 64] = ~u64{0};
      i += 64;
    } else {
      words_[i / 64] |= u64{1} << i % 64;
      i++;
    }
  }
}
std::pair<bool, u64> DirtyBitmap::run_at(u64 offset, u64 length) const {
  Lock lock{mutex_};
  const u64 end = offset + length;
  const auto is_set = [&](u64 i) { return i / 64 < words_.size() && words_[i / 64] >> i % 64 & 1; };
  u64 i = offset / granularity_;
  const bool value = is_set(i);
  const u64 same = value ? ~u64{0} : 0;
  while (i * granularity_ < end) {
    if (i / 64 >= words_.size() && !value) return {false, length};
    if (i % 64 == 0 && i / 64 < words_.size() && words_[i / 64] == same)
      i += 64;
    else if (is_set(i) == value)
      i++;
    else
      break;
  }
  return {value, std::min(i * granularity_, end) - offset};
}

DirtyBitmap::Bits DirtyBitmap::bits() const {
  Lock lock{mutex_};
  return words_;
}
DirtyBitmap::Bits DirtyBitmap::exchange_bits(Bits bits) {
  Lock lock{mutex_};
  bits.resize(std::max(bits.size(), words_.size()));
  return std::exchange(words_, std::move(bits));
}
void DirtyBitmap::add_bits(const Bits& bits) {
  Lock lock{mutex_};
  words_.resize(std::max(bits.size(), words_.size()));
  for (usize i = 0; i < bits.size(); i++) words_[i] |= bits[i];
}
void DirtyBitmap::add_bitmap(const DirtyBitmap& from) {
  const Bits bits = from.bits();
  if (from.granularity_ == granularity_) return add_bits(bits);
  Lock lock{mutex_};
  for (u64 i = 0; i < bits.size() * 64; i++)
    if (bits[i / 64] >> i % 64 & 1) set_locked(i * from.granularity_, from.granularity_);
}

// --- Of nodes

BitmapRef find_bitmap(const BlockNode& node, std::string_view name) {
  for (const auto& b : bitmaps_of(node))
    if (b->name() == name) return b;
  return nullptr;
}
std::vector<BitmapRef> bitmaps_of(const BlockNode& node) {
  std::erase_if(placed(), [](const Placed& p) { return p.node.expired(); });
  std::vector<BitmapRef> out;
  for (const Placed& p : placed())
    if (p.node.lock().get() == &node) out.push_back(p.bitmap);
  return out;
}
Result<> add_bitmap(BlockNode& node, BitmapRef bitmap) {
  if (find_bitmap(node, bitmap->name())) return fail("Bitmap already exists: {}", bitmap->name());
  node.add_watcher(bitmap);
  placed().push_back({node.weak_from_this(), std::move(bitmap)});
  return {};
}
void remove_bitmap(BlockNode& node, const BitmapRef& bitmap) {
  const BitmapRef keep = bitmap;
  node.remove_watcher(keep.get());
  std::erase_if(placed(), [&](const Placed& p) { return p.bitmap == keep; });
}
Value describe_bitmap(const DirtyBitmap& b) {
  Value v = Value::object();
  v.set("name", b.name()).set("count", b.dirty_bytes()).set("granularity", b.granularity());
  v.set("recording", b.recording()).set("busy", b.busy()).set("persistent", false);
  return v;
}

}  // namespace vmm::block
