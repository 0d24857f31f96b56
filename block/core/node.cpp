// Requests on their way through an edge: checks, alignment, order among overlapping ones, slow versions of what drivers lack.
#include "block/core/node.h"

#include <algorithm>

#include "block/core/graph.h"

namespace vmm::block {

namespace {
// Bounce buffers and zeros are written in pieces of this size.
constexpr u64 piece_bytes = 1 * MiB;
constexpr u64 zero_piece_bytes = 256 * KiB;

std::span<const u8> zeros() {
  static const Buffer buffer = [] {
    Buffer b{zero_piece_bytes};
    std::memset(b.data(), 0, b.size());
    return b;
  }();
  return buffer.span();
}
constexpr u64 down(u64 v, u64 unit) { return v - v % unit; }
constexpr u64 up(u64 v, u64 unit) { return down(v + unit - 1, unit); }
// No offset of a disk is larger: what is added to one then never wraps.
constexpr u64 largest_offset = u64{INT64_MAX} - piece_bytes;
}  // namespace

std::string permission_names(u8 permissions) {
  static constexpr std::string_view names[] = {"read", "write", "write unchanged", "resize"};
  std::string out;
  for (unsigned i = 0; i < 4; i++)
    if (permissions >> i & 1) out += format("{}{}", out.empty() ? "" : ", ", names[i]);
  return out;
}

// --- Requests under way -------------------------------------------------------------------------------------------------------------

Request::Request(BlockNode& node, u64 offset, u64 length)
    : node_(node), begin_(offset), end_(offset + length), number_(node.request_number_++) {
  place_ = node.requests_.insert(node.requests_.end(), this);
}
Request::~Request() {
  node_.requests_.erase(place_);
  if (serialising_) node_.serialising_--;
  waiters_.wake_all();
}
void Request::serialise(u64 offset, u64 length) {
  begin_ = std::min(begin_, offset), end_ = std::max(end_, offset + length);
  if (!std::exchange(serialising_, true)) node_.serialising_++;
}
// Only older ones: nobody waits for somebody who waits for him.
Request* Request::conflict() const {
  if (!node_.serialising_) return nullptr;
  for (Request* other : node_.requests_) {
    if (other->number_ >= number_) break;
    if ((serialising_ || other->serialising_) && other->begin_ < end_ && begin_ < other->end_) return other;
  }
  return nullptr;
}
Task<> Request::wait() {
  while (Request* other = conflict()) co_await other->waiters_.wait();
  co_return Result<>{};
}

// --- What drivers need not override -------------------------------------------------------------------------------------------------

BlockNode::~BlockNode() = default;
Task<> BlockNode::write(u64, IoVector, WriteFlags) { co_return fail_os(EROFS, format("node '{}' cannot be written", node_name())); }
Task<> BlockNode::flush() {
  for (const auto& c : children_)
    if (c->needs() & permit_write) co_await c->flush();
  co_return Result<>{};
}
Task<> BlockNode::zero(u64, u64, ZeroFlags) { co_return fail_os(ENOTSUP); }
Task<> BlockNode::discard(u64, u64) { co_return Result<>{}; }
Task<Extent> BlockNode::map(u64, u64 length) { co_return Extent{.kind = Extent::Kind::data, .length = length}; }
Task<> BlockNode::set_backing(std::string, std::string) {
  co_return fail_os(ENOTSUP, format("format '{}' does not name a backing file", driver().name));
}
Task<> BlockNode::truncate(u64, Preallocation) { co_return fail_os(ENOTSUP, "Image format driver does not support resize"); }
std::string BlockNode::filename() const {
  for (const auto& c : children_)
    if (c->role() == Role::file || c->role() == Role::filtered) return c->node().filename();
  return {};
}
Task<u64> BlockNode::allocated_bytes() {
  u64 sum = 0;
  for (const auto& c : children_)
    if (c->role() != Role::backing) {
      const u64 more = co_await c->node().allocated_bytes();
      sum += more;
    }
  co_return sum;
}
Task<> BlockNode::reopen(const NodeOptions& options) {
  if (options.read_only == options_.read_only) co_return Result<>{};
  // What it writes to may be written first. The other way round the files stay as they are: others may write to them.
  if (!options.read_only)
    for (const auto& c : children_) {
      if (c->role() == Role::backing) continue;
      NodeOptions below = c->node().options();
      below.read_only = false;
      co_await c->node().reopen(below);
    }
  options_.read_only = options.read_only;
  auto refreshed = Graph::refresh(*this);
  if (!refreshed) options_.read_only = !options.read_only;
  co_return refreshed;
}

std::pair<u8, u8> BlockNode::child_permissions(Role role, u8 needs, u8 shares) const {
  switch (role) {
    case Role::filtered: return {needs, shares};
    case Role::backing: {
      const u8 may = shares & permit_write ? permit_all : permit_read | permit_write_unchanged;
      return {u8(needs & permit_read), may};
    }
    default: break;
  }
  // A format writes its own metadata whenever it may, and bears no other writer.
  return {u8(permit_read | (read_only() ? 0 : permit_write | permit_resize)), u8(permit_read | permit_write_unchanged)};
}

void BlockNode::remove_watcher(const WriteWatcher* watcher) {
  std::erase_if(watchers_, [&](const auto& w) { return w.get() == watcher; });
}
// Copies of the list: it may change meanwhile.
Task<> BlockNode::before_write(u64 offset, u64 length) {
  const auto all = watchers_;
  for (const auto& w : all) co_await w->before_write(offset, length);
  co_return Result<>{};
}
void BlockNode::after_write(u64 offset, u64 length) {
  const auto all = watchers_;
  for (const auto& w : all) w->after_write(offset, length);
}

Edge* BlockNode::child(std::string_view name) const {
  for (const auto& c : children_)
    if (c->name() == name) return c.get();
  return nullptr;
}
BlockNode* BlockNode::filtered() const {
  for (const auto& c : children_)
    if (c->role() == Role::filtered) return &c->node();
  return nullptr;
}

// --- Requests through an edge -------------------------------------------------------------------------------------------------------

Result<> Edge::check(u64 offset, u64 length, u8 needed) const {
  if (offset > largest_offset || length > largest_offset - offset) return fail_os(EIO, "request is outside of every disk");
  if (needed & permit_write && node_->inactive())
    return fail_os(EPERM, format("node '{}' is not in use here: its image belongs to another process now", node_->node_name()));
  if (needed & ~needs_) return fail_os(EPERM, format("{} may not {} node '{}'", user_, permission_names(needed), node_->node_name()));
  if (role_ == Role::user && offset + length > node_->length_bytes()) return fail_os(EIO, "request is past the end of the disk");
  return {};
}

Task<> Edge::read(u64 offset, IoVector into) {
  if (into.empty()) co_return Result<>{};
  if (auto ok = check(offset, into.size(), permit_read); !ok) co_return std::unexpected(std::move(ok).error());
  Request request{*node_, offset, into.size()};
  if (request.must_wait()) co_await request.wait();
  node_->statistics_.read_operations++;
  node_->statistics_.read_bytes += into.size();
  const u64 end = node_->length_bytes();
  if (offset + into.size() > end) {
    IoVector inside = offset < end ? into.take(end - offset) : IoVector{};
    into.fill(0);
    if (inside.empty()) co_return Result<>{};
    into = std::move(inside);
  }
  const Limits limits = node_->limits();
  const bool plain = ((offset | into.size()) & (limits.request_alignment - 1)) == 0 &&
                     (limits.max_transfer == 0 || into.size() <= limits.max_transfer) && into.pieces().size() <= limits.max_pieces &&
                     (limits.memory_alignment == 1 || into.aligned(limits.memory_alignment));
  if (plain) co_return co_await node_->read(offset, std::move(into));
  co_return co_await read_aligned(offset, std::move(into));
}

Task<> Edge::read_out_of_order(u64 offset, IoVector into) {
  if (auto ok = check(offset, into.size(), permit_read); !ok) co_return std::unexpected(std::move(ok).error());
  const u64 end = node_->length_bytes();
  IoVector inside = into.take(offset < end ? end - offset : 0);
  into.fill(0);
  if (!inside.empty()) co_await read_aligned(offset, std::move(inside));
  co_return Result<>{};
}

Task<> Edge::read_aligned(u64 offset, IoVector into) {
  const Limits limits = node_->limits();
  const u64 unit = limits.request_alignment;
  u64 most = limits.max_transfer ? std::max(down(limits.max_transfer, unit), unit) : piece_bytes;
  while (!into.empty()) {
    // As much as can go without a copy.
    if (offset % unit == 0 && into.size() >= unit) {
      IoVector direct = into.part(0, std::min(down(into.size(), unit), most));
      if (direct.pieces().size() > limits.max_pieces) {
        IoVector fewer;
        for (u32 i = 0; i < limits.max_pieces; i++) fewer.add({static_cast<u8*>(direct.pieces()[i].iov_base), direct.pieces()[i].iov_len});
        direct = fewer.take(down(fewer.size(), unit));
      }
      if (!direct.empty() && direct.aligned(limits.memory_alignment)) {
        const u64 size = direct.size();
        co_await node_->read(offset, std::move(direct));
        into.take(size);
        offset += size;
        continue;
      }
    }
    const u64 begin = down(offset, unit),
              end = std::min(up(offset + into.size(), unit), begin + std::max(std::min(most, piece_bytes), unit));
    Buffer bounce{end - begin, std::max<u64>(Buffer::default_alignment, limits.memory_alignment)};
    co_await node_->read(begin, bounce.vector());
    const IoVector part = into.take(end - offset);
    part.copy_in(bounce.span().subspan(offset - begin, part.size()));
    offset += part.size();
  }
  co_return Result<>{};
}

Task<> Edge::write(u64 offset, IoVector from, WriteFlags flags) {
  if (from.empty()) co_return Result<>{};
  const u8 needed = flags.unchanged && !(needs_ & permit_write) ? permit_write_unchanged : permit_write;
  if (auto ok = check(offset, from.size(), needed); !ok) co_return std::unexpected(std::move(ok).error());
  const NodeOptions& options = node_->options_;
  if (options.detect_zeroes != DetectZeroes::off && !flags.compressed && from.is_zero())
    co_return co_await zero(offset, from.size(), {.may_unmap = options.detect_zeroes == DetectZeroes::unmap, .fua = flags.fua});
  const u64 size = from.size(), unit = node_->limits().request_alignment;
  Request request{*node_, offset, size};
  if (flags.serialising || (offset | size) & (unit - 1))
    request.serialise(down(offset, unit), up(offset + size, unit) - down(offset, unit));
  if (request.must_wait()) co_await request.wait();
  node_->statistics_.write_operations++;
  node_->statistics_.write_bytes += size;
  node_->statistics_.write_highest_offset = std::max(node_->statistics_.write_highest_offset, offset + size);
  if (!node_->watchers_.empty()) [[unlikely]]
    co_await node_->before_write(offset, size);
  auto done = co_await attempt(write_checked(offset, std::move(from), flags));
  if (!node_->watchers_.empty()) [[unlikely]]
    node_->after_write(offset, size);
  co_return done;
}

// The request is tracked, and holds what is around it if it is not aligned.
Task<> Edge::write_checked(u64 offset, IoVector from, WriteFlags flags) {
  const Limits limits = node_->limits();
  const bool flush_after = flags.fua && !limits.fua;
  if (flush_after) flags.fua = false;
  const bool plain = ((offset | from.size()) & (limits.request_alignment - 1)) == 0 &&
                     (limits.max_transfer == 0 || from.size() <= limits.max_transfer) && from.pieces().size() <= limits.max_pieces &&
                     (limits.memory_alignment == 1 || from.aligned(limits.memory_alignment));
  if (plain)
    co_await node_->write(offset, std::move(from), flags);
  else
    co_await write_aligned(offset, std::move(from), flags);
  if (flush_after) co_await flush();
  co_return Result<>{};
}

Task<> Edge::write_aligned(u64 offset, IoVector from, WriteFlags flags) {
  const Limits limits = node_->limits();
  const u64 unit = limits.request_alignment;
  const u64 most = std::max(unit, down(std::min(limits.max_transfer ? limits.max_transfer : piece_bytes, piece_bytes), unit));
  while (!from.empty()) {
    const u64 begin = down(offset, unit), end = std::min(up(offset + from.size(), unit), begin + most);
    const IoVector part = from.take(end - offset);
    if (begin == offset && part.size() == end - begin && part.pieces().size() <= limits.max_pieces &&
        part.aligned(limits.memory_alignment)) {
      co_await node_->write(offset, part, flags);
      offset = end;
      continue;
    }
    Buffer bounce{end - begin, std::max<u64>(Buffer::default_alignment, limits.memory_alignment)};
    // What is there already at both ends; past the node's end there are zeros.
    const u64 length = node_->length_bytes();
    const auto fetch = [&](u64 at) -> Task<> {
      if (at >= length) {
        std::memset(bounce.data() + (at - begin), 0, unit);
        return [](void) -> Task<> { co_return Result<>{}; }();
      }
      return node_->read(at, IoVector{bounce.data() + (at - begin), unit});
    };
    if (offset != begin) co_await fetch(begin);
    if (offset + part.size() != end && (end - unit != begin || offset == begin)) co_await fetch(end - unit);
    part.copy_out(bounce.span().subspan(offset - begin));
    co_await node_->write(begin, bounce.vector(), flags);
    offset += part.size();
  }
  co_return Result<>{};
}

Task<> Edge::flush() {
  node_->statistics_.flush_operations++;
  if (node_->inactive() || (node_->options_.cache_no_flush && node_->children_.empty())) co_return Result<>{};
  co_return co_await node_->flush();
}

Task<> Edge::zero(u64 offset, u64 length, ZeroFlags flags) {
  if (!length) co_return Result<>{};
  const u8 needed = flags.unchanged && !(needs_ & permit_write) ? permit_write_unchanged : permit_write;
  if (auto ok = check(offset, length, needed); !ok) co_return std::unexpected(std::move(ok).error());
  const u64 unit = node_->limits().request_alignment;
  if (node_->options_.discard == DiscardMode::ignore) flags.may_unmap = false;
  Request request{*node_, offset, length};
  if ((offset | length) & (unit - 1)) request.serialise(down(offset, unit), up(offset + length, unit) - down(offset, unit));
  if (request.must_wait()) co_await request.wait();
  node_->statistics_.write_operations++;
  node_->statistics_.write_highest_offset = std::max(node_->statistics_.write_highest_offset, offset + length);
  if (!node_->watchers_.empty()) [[unlikely]]
    co_await node_->before_write(offset, length);
  auto done = co_await attempt(zero_checked(offset, length, flags));
  if (!node_->watchers_.empty()) [[unlikely]]
    node_->after_write(offset, length);
  co_return done;
}

Task<> Edge::zero_checked(u64 offset, u64 length, ZeroFlags flags) {
  const Limits limits = node_->limits();
  const u64 unit = limits.request_alignment;
  const bool flush_after = flags.fua && !limits.fua;
  bool supported = true;
  while (length) {
    u64 here = length;
    if (offset % unit) {
      here = std::min(here, unit - offset % unit);  // to the next unit, as a write
    } else if (supported && down(length, unit)) {
      here = down(here, unit);
      if (limits.max_zero) here = std::min(here, std::max(down(limits.max_zero, unit), unit));
      ZeroFlags pass = flags;
      if (flush_after) pass.fua = false;
      pass.no_fallback = false;
      auto done = co_await attempt(node_->zero(offset, here, pass));
      if (done) {
        offset += here, length -= here;
        continue;
      }
      if (os_error_of(done.error()) != ENOTSUP || flags.no_fallback) co_return std::unexpected(std::move(done).error());
      supported = false;
    }
    here = std::min(here, zero_piece_bytes);
    co_await write_checked(offset, IoVector::of(zeros().first(here)), {});
    offset += here, length -= here;
  }
  if (flush_after) co_await flush();
  co_return Result<>{};
}

Task<> Edge::discard(u64 offset, u64 length) {
  if (!length) co_return Result<>{};
  if (auto ok = check(offset, length, permit_write); !ok) co_return std::unexpected(std::move(ok).error());
  if (node_->options_.discard == DiscardMode::ignore) co_return Result<>{};
  const Limits limits = node_->limits();
  const u64 unit = limits.request_alignment;
  const u64 begin = up(offset, unit), end = offset + length == node_->length_bytes() ? offset + length : down(offset + length, unit);
  if (begin >= end) co_return Result<>{};
  Request request{*node_, begin, end - begin};
  if (request.must_wait()) co_await request.wait();
  node_->statistics_.unmap_operations++;
  if (!node_->watchers_.empty()) [[unlikely]]
    co_await node_->before_write(begin, end - begin);
  Result<> done;
  for (u64 at = begin; at < end && done;) {
    const u64 here = std::min(end - at, limits.max_discard ? std::max(down(limits.max_discard, unit), unit) : end - at);
    done = co_await attempt(node_->discard(at, here));
    at += here;
  }
  if (!node_->watchers_.empty()) [[unlikely]]
    node_->after_write(begin, end - begin);
  if (!done && os_error_of(done.error()) == ENOTSUP) co_return Result<>{};  // a hint that nobody takes
  co_return done;
}

Task<Extent> Edge::map(u64 offset, u64 length) {
  const u64 end = node_->length_bytes();
  if (!length || offset >= end) co_return Extent{.kind = Extent::Kind::zero, .length = length, .present = false};
  Extent extent = co_await node_->map(offset, std::min(length, end - offset));
  co_return extent;
}

Task<> Edge::truncate(u64 length, Preallocation preallocation) {
  if (!(needs_ & permit_resize)) co_return fail_os(EPERM, format("{} may not resize node '{}'", user_, node_->node_name()));
  if (length > largest_offset) co_return fail_os(EFBIG, format("{} bytes is more than a disk can have", length));
  Request request{*node_, std::min(length, node_->length_bytes()), largest_offset};
  request.serialise(std::min(length, node_->length_bytes()), 0);
  if (request.must_wait()) co_await request.wait();
  co_return co_await node_->truncate(length, preallocation);
}

}  // namespace vmm::block
