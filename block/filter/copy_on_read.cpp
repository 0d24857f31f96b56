// copy-on-read: what is read from a backing file is kept in the image above it.
#include <algorithm>

#include "block/filter/filter.h"

namespace vmm::block {
namespace {

constexpr u64 most_at_once = 1 * MiB;

class CopyOnRead final : public Filter {
 public:
  Task<> read(u64 offset, IoVector into) override {
    BlockNode& image = below().node();
    while (!into.empty()) {
      const Extent extent = co_await below().map(offset, into.size());
      if (extent.kind != Extent::Kind::backing) {
        const u64 here = std::min(extent.length, into.size());
        co_await below().read(offset, into.take(here));
        offset += here;
        continue;
      }
      // Whole clusters are kept.
      const u64 unit = std::max<u64>(image.cluster_bytes(), image.limits().request_alignment);
      const u64 begin = offset / unit * unit;
      const u64 wanted = std::min({offset + extent.length, offset + into.size(), begin + std::max(most_at_once, unit)});
      const u64 end = std::min((wanted + unit - 1) / unit * unit, image.length_bytes());
      Buffer bounce{end - begin, std::max<u64>(Buffer::default_alignment, image.limits().memory_alignment)};
      // A failure to keep it (a full disk) does not fail the read.
      const Result<bool> kept = co_await attempt(copy_up(image, begin, end - begin, bounce.data()));
      if (!kept) co_await below().read(begin, bounce.vector());
      const IoVector part = into.take(wanted - offset);
      part.copy_in(bounce.span().subspan(offset - begin, part.size()));
      offset += part.size();
    }
    co_return Result<>{};
  }
  std::pair<u8, u8> child_permissions(Role, u8 needs, u8 shares) const override {
    return {u8(needs | permit_read | permit_write_unchanged), shares};
  }
};

RegisteredDriver registered{{.name = "copy-on-read",
                             .doc = "Keeps what is read from the backing file.",
                             .kind = BlockDriver::Kind::filter,
                             .children = filter_children,
                             .make = make_node<CopyOnRead>}};
}  // namespace
}  // namespace vmm::block
