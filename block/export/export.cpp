#include "block/export/export.h"

#include "block/core/quiet.h"
#include "block/nbd/wire.h"

namespace vmm::block {
using namespace nbd;

namespace {
constexpr std::string_view bitmap_prefix = "qemu:dirty-bitmap:";

std::shared_ptr<DirtyBitmap> bitmap_in_chain(BlockNode& node, std::string_view name) {
  for (BlockNode* n = &node; n; n = n->filtered() ? n->filtered() : backing_of(*n))
    if (auto found = find_bitmap(*n, name)) return found;
  return nullptr;
}

Task<> allocation_of(Edge& root, u64 offset, u64 length, std::pair<u32, u64>& answer) {
  const Extent e = co_await map_above(root.node(), nullptr, offset, length);
  answer = {e.kind == Extent::Kind::data ? 0 : extent_hole | extent_zero, e.length};
  co_return Result<>{};
}
// 1: in the image itself, 2: in the one below it, …; 0: in none.
Task<> depth_of(Edge& root, u64 offset, u64 length, std::pair<u32, u64>& answer) {
  BlockNode* n = &below_filters(root.node());
  for (u32 depth = 1; n; depth++) {
    if (offset >= n->length_bytes()) break;
    const Extent e = co_await n->map(offset, std::min(length, n->length_bytes() - offset));
    length = e.length;
    if (e.kind != Extent::Kind::backing) {
      answer = {depth, length};
      co_return Result<>{};
    }
    n = backing_of(*n);
  }
  answer = {0, length};
  co_return Result<>{};
}
}  // namespace

Result<std::shared_ptr<Export>> Export::make(NodeRef node, ExportOptions options) {
  if (options.name.size() > most_string_bytes) return fail("export name '{}...' too long", options.name.substr(0, 32));
  if (options.description.size() > most_string_bytes) return fail("description '{}...' too long", options.description.substr(0, 32));
  if (options.writable && node->read_only()) return fail("Cannot export read-only node as writable");
  std::shared_ptr<Export> e{new Export};
  for (const auto& name : options.bitmaps) {
    auto bitmap = bitmap_in_chain(*node, name);
    if (!bitmap) return fail("Bitmap '{}' is not found", name);
    if (bitmap->busy()) return fail("Bitmap '{}' is currently in use by another operation and cannot be used", name);
    if (bitmap->recording() && !options.writable && node->read_only())
      return fail("Enabled bitmap '{}' incompatible with readonly export", name);
    e->bitmaps_.push_back(std::move(bitmap));
  }
  e->backend_ = TRY(make_backend({.read_only = !options.writable}));
  TRY(e->backend_->insert(std::move(node)));
  // The length must stay, since clients are told it once.
  const u8 needs = u8(permit_read | (options.writable ? permit_write : 0));
  TRY(e->backend_->root()->set_permissions(needs, u8(permit_all & ~permit_resize)));
  e->backend_->set_write_cache(!options.writethrough);
  e->length_ = e->backend_->length_bytes();
  e->options_ = std::move(options);
  for (const auto& b : e->bitmaps_) b->set_busy(true);
  return e;
}
Export::~Export() {
  for (const auto& b : bitmaps_) b->set_busy(false);
}

u16 Export::flags(bool structured) const {
  using namespace export_flag;
  u16 f = has_flags | flush | fua | cache;
  if (options_.multi_conn) f |= multi_conn;
  if (structured) f |= df;
  if (options_.writable)
    f |= trim | write_zeroes | fast_zero;
  else
    f |= read_only;
  return f;
}

std::vector<std::string> Export::contexts() const {
  std::vector<std::string> out{"base:allocation"};
  if (options_.allocation_depth) out.push_back("qemu:allocation-depth");
  for (const auto& b : bitmaps_) out.push_back(format("{}{}", bitmap_prefix, b->name()));
  return out;
}

Task<std::pair<u32, u64>> Export::status(std::string context, u64 offset, u64 length) {
  if (context.starts_with(bitmap_prefix)) {
    for (const auto& b : bitmaps_)
      if (b->name() == context.substr(bitmap_prefix.size())) {
        const auto [dirty, run] = b->run_at(offset, length);
        co_return std::pair{dirty ? extent_dirty : 0, run};
      }
    co_return fail_os(EINVAL);
  }
  std::pair<u32, u64> answer{};
  if (context == "qemu:allocation-depth")
    co_await backend_->inspect([&](Edge& root) { return depth_of(root, offset, length, answer); });
  else
    co_await backend_->inspect([&](Edge& root) { return allocation_of(root, offset, length, answer); });
  co_return answer;
}

}  // namespace vmm::block
