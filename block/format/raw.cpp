// raw: an image that is its contents, or a window of them (offset, size).
#include <algorithm>

#include "block/core/node.h"
#include "src/base/log.h"

namespace vmm::block {
namespace {

struct RawOptions {
  std::optional<Bytes64> offset, size;
  std::optional<bool> probed;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::RawOptions> = {
    field<&block::RawOptions::offset>("offset", "Where the disk begins in the file."),
    field<&block::RawOptions::size>("size", "Length of the disk; to the file's end if absent."),
    field<&block::RawOptions::probed>("probed", "Taken for raw because nothing else fits.", {.hidden = true}),
};
}  // namespace vmm

namespace vmm::block {
namespace {

class Raw final : public BlockNode {
 public:
  Task<> open(Value options) override {
    RawOptions o;
    if (auto ok = assign_fields(&o, fields<RawOptions>, options); !ok) co_return std::unexpected(std::move(ok).error());
    file_ = child("file");
    if (!file_) co_return fail("A block device must be specified for \"file\"");
    offset_ = o.offset.value_or(Bytes64{});
    probed_ = o.probed.value_or(false);
    if (o.size) size_ = o.size->value;
    const u64 length = file_->length_bytes();
    if (offset_ > length) co_return fail("Offset ({}) cannot be greater than size of the containing file ({})", offset_, length);
    if (size_ && (*size_ > length - offset_))
      co_return fail("The sum of offset ({}) and size ({}) has to be smaller or equal to the actual size of the containing file ({})",
                     offset_, *size_, length);
    if (probed_ && !read_only())
      report_warning(
          format("Image format was not specified for '{}' and probing guessed raw.\n         Automatically detecting the format is "
                 "dangerous for raw "
                 "images, write operations on block 0 will be restricted.\n         Specify the 'raw' format explicitly to remove the "
                 "restrictions.",
                 filename()));
    co_return Result<>{};
  }
  Task<> read(u64 offset, IoVector into) override { return file_->read(offset_ + offset, std::move(into)); }
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override {
    // The format was guessed: a guest that writes another format's header would choose what the next start opens.
    if (probed_ && offset == 0) return first_sector(std::move(from), flags);
    return file_->write(offset_ + offset, std::move(from), flags);
  }
  Task<> zero(u64 offset, u64 length, ZeroFlags flags) override { return file_->zero(offset_ + offset, length, flags); }
  Task<> discard(u64 offset, u64 length) override { return file_->discard(offset_ + offset, length); }
  Task<Extent> map(u64 offset, u64 length) override {
    Extent e = co_await file_->map(offset_ + offset, length);
    e.host_offset = offset_ + offset, e.has_host_offset = true;
    co_return e;
  }
  Task<> truncate(u64 length, Preallocation preallocation) override {
    if (size_) co_return fail_os(ENOTSUP, "Cannot resize fixed-size raw disks");
    if (length > u64{INT64_MAX} - offset_) co_return fail_os(EFBIG, "Disk size too large for the chosen offset");
    co_return co_await file_->truncate(offset_ + length, preallocation);
  }
  u64 length_bytes() const override {
    if (size_) return *size_;
    const u64 length = file_->length_bytes();
    return length > offset_ ? length - offset_ : 0;
  }
  bool can_hand_over() const override { return true; }
  bool grows() const override { return !size_ && file_->node().grows(); }
  Limits limits() const override {
    Limits l = file_->node().limits();
    if (offset_ % l.request_alignment) l.request_alignment = 1;  // the file aligns for itself
    return l;
  }
  std::pair<u8, u8> child_permissions(Role, u8 needs, u8 shares) const override {
    return {u8(needs | (read_only() ? 0 : needs & permit_write)), shares};
  }

 private:
  Task<> first_sector(IoVector from, WriteFlags flags) {
    const u64 head_bytes = std::min<u64>(512, from.size());
    Buffer head{512};
    std::memset(head.data(), 0, 512);
    from.part(0, head_bytes).copy_out(head.span());
    for (const BlockDriver* d : all_drivers())
      if (d->probe && d->name != "raw" && d->probe(head.span(), "") > 0)
        co_return fail_os(EPERM,
                          format("a write that would make {} of an image whose format was guessed to be raw; say format=raw", d->name));
    co_return co_await file_->write(offset_, std::move(from), flags);
  }
  Edge* file_ = nullptr;
  u64 offset_ = 0;
  std::optional<u64> size_;
  bool probed_ = false;
};

constexpr std::string_view children[] = {"file"};
RegisteredDriver registered{{.name = "raw",
                             .doc = "The bytes of the disk as they are.",
                             .kind = BlockDriver::Kind::format,
                             .options = fields<RawOptions>,
                             .children = children,
                             .make = make_node<Raw>,
                             .probe = [](std::span<const u8>, std::string_view) { return 1; }}};

}  // namespace
}  // namespace vmm::block
