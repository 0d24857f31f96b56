// compress: every write is stored compressed. preallocate: the file grows in large steps. blkverify: two images that must agree.
#include <algorithm>

#include "block/filter/filter.h"
#include "src/base/log.h"

namespace vmm::block {
namespace {

class Compress final : public Filter {
 public:
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override {
    flags.compressed = true;
    return below().write(offset, std::move(from), flags);
  }
  // Only whole clusters can be compressed; the graph completes the others.
  Limits limits() const override {
    Limits l = Filter::limits();
    if (const u64 cluster = cluster_bytes()) l.request_alignment = u32(std::max<u64>(l.request_alignment, cluster));
    return l;
  }

 protected:
  Result<> set_options(const Value& options) override {
    if (!cluster_bytes()) return fail("Compression is not supported by driver '{}'", below().node().driver().name);
    return Filter::set_options(options);
  }
};

struct PreallocateOptions {
  std::optional<Bytes64> prealloc_align, prealloc_size;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::PreallocateOptions> = {
    field<&block::PreallocateOptions::prealloc_align>("prealloc-align", "The file's length becomes a multiple; 1 MiB if absent.",
                                                      {.min = 1, .max = 1 << 30}),
    field<&block::PreallocateOptions::prealloc_size>("prealloc-size", "How much is added at once; 128 MiB if absent.",
                                                     {.min = 1, .max = u64{1} << 40}),
};
}  // namespace vmm

namespace vmm::block {
namespace {

class Preallocate final : public Filter {
 public:
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override {
    const u64 end = offset + from.size();
    co_await extend(end);
    co_await below().write(offset, std::move(from), flags);
    data_end_ = std::max(data_end_, end);
    co_return Result<>{};
  }
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override {
    const u64 end = offset + length;
    co_await extend(end);
    co_await below().zero(offset, length, flags);
    data_end_ = std::max(data_end_, end);
    co_return Result<>{};
  }
  Task<> truncate(u64 length, Preallocation mode) override {
    co_await below().truncate(length, mode);
    data_end_ = length;
    co_return Result<>{};
  }
  u64 length_bytes() const override { return opened_ ? data_end_ : Filter::length_bytes(); }
  Task<> close() override {
    if (!read_only() && below().length_bytes() > data_end_ && below().needs() & permit_resize)
      co_return co_await below().truncate(data_end_);
    co_return Result<>{};
  }

 protected:
  Result<> set_options(const Value& options) override {
    PreallocateOptions o;
    TRY(assign_fields(&o, fields<PreallocateOptions>, options));
    align_ = o.prealloc_align ? o.prealloc_align->value : 1 * MiB;
    step_ = o.prealloc_size ? o.prealloc_size->value : 128 * MiB;
    data_end_ = Filter::length_bytes();
    opened_ = true;
    return {};
  }

 private:
  // Room for a write that ends there. Done once however many ask; a file system that cannot is left alone.
  Task<> extend(u64 end) {
    const u64 length = below().length_bytes();
    if (end <= length || !(below().needs() & permit_resize)) co_return Result<>{};
    auto guard = co_await growing_.lock();
    const u64 now = below().length_bytes();
    if (end <= now) co_return Result<>{};
    const u64 to = (end + step_ + align_ - 1) / align_ * align_;
    (void)co_await attempt(below().zero(now, to - now, {.no_fallback = true}));
    co_return Result<>{};
  }
  u64 align_ = 1, step_ = 1, data_end_ = 0;
  bool opened_ = false;
  AsyncMutex growing_;
};

// The first image is the one under test, the second ("raw") what it must equal.
class Verify final : public Filter {
 public:
  Task<> read(u64 offset, IoVector into) override {
    Buffer other{into.size()};
    co_await below().read(offset, into);
    co_await raw_->read(offset, other.vector());
    u64 at = 0;
    for (const iovec& v : into.pieces()) {
      const u8* mine = static_cast<const u8*>(v.iov_base);
      for (u64 i = 0; i < v.iov_len; i++, at++)
        if (mine[i] != other.data()[at]) {
          report_error(format("blkverify: contents mismatch at offset {} (read of {} bytes at {})", offset + at, into.size(), offset));
          co_return fail_os(EILSEQ, format("contents mismatch at offset {}", offset + at));
        }
    }
    co_return Result<>{};
  }
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override {
    co_await below().write(offset, from, flags);
    co_return co_await raw_->write(offset, std::move(from), flags);
  }
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override {
    co_await below().zero(offset, length, flags);
    co_return co_await raw_->zero(offset, length, flags);
  }
  // Afterwards the two may differ: a discard promises nothing.
  Task<> discard(u64, u64) override { co_return Result<>{}; }
  Task<> flush() override {
    co_await below().flush();
    co_return co_await raw_->flush();
  }
  Task<> truncate(u64 length, Preallocation mode) override {
    co_await below().truncate(length, mode);
    co_return co_await raw_->truncate(length, mode);
  }
  Task<Extent> map(u64, u64 length) override { co_return Extent{.kind = Extent::Kind::data, .length = length}; }
  std::pair<u8, u8> child_permissions(Role, u8 needs, u8 shares) const override { return {needs, shares}; }

 protected:
  Result<> set_options(const Value& options) override {
    raw_ = child("raw");
    if (!raw_) return fail("A block device must be specified for \"raw\"");
    return Filter::set_options(options);
  }

 private:
  Edge* raw_ = nullptr;
};

Result<Value> verify_name(std::string_view name) {
  // blkverify:RAW:IMAGE
  name.remove_prefix(name.find(':') + 1);
  const auto colon = name.find(':');
  if (colon == name.npos) return fail("blkverify requires raw copy and original image path");
  Value raw = TRY(options_of_filename(name.substr(0, colon)));
  Value test = TRY(options_of_filename(name.substr(colon + 1)));
  Value format_node = Value::object();
  format_node.set("driver", "raw").set("file", std::move(raw));
  return Value::object().set("raw", std::move(format_node)).set("test", std::move(test));
}

constexpr std::string_view verify_children[] = {"test", "raw"}, verify_prefix[] = {"blkverify"};
RegisteredDriver compress{{.name = "compress",
                           .doc = "Stores writes compressed.",
                           .kind = BlockDriver::Kind::filter,
                           .children = filter_children,
                           .make = make_node<Compress>}};
RegisteredDriver preallocate{{.name = "preallocate",
                              .doc = "Lets the file grow in large steps.",
                              .kind = BlockDriver::Kind::filter,
                              .options = fields<PreallocateOptions>,
                              .children = filter_children,
                              .make = make_node<Preallocate>}};
RegisteredDriver verify{{.name = "blkverify",
                         .doc = "Compares two images.",
                         .kind = BlockDriver::Kind::filter,
                         .children = verify_children,
                         .make = make_node<Verify>,
                         .prefixes = verify_prefix,
                         .parse_filename = verify_name}};
}  // namespace
}  // namespace vmm::block
