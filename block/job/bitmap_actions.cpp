// The monitor's commands on dirty bitmaps. Texts as QEMU 7.2 has them (observed). Bitmaps are kept in memory; those that an image keeps
// ("persistent") are refused.
#include "block/job/bitmap_actions.h"

#include <bit>

#include "block/core/dirty_bitmap.h"

namespace vmm {
namespace block {
namespace {
struct AddArgs {
  std::string node, name;
  std::optional<u32> granularity;
  std::optional<bool> persistent, disabled;
};
struct BitmapArgs {
  std::string node, name;
};
struct MergeArgs {
  std::string node, target;
  std::vector<Value> bitmaps;
};
}  // namespace
}  // namespace block
template <>
inline constexpr std::array fields<block::AddArgs> = {
    field<&block::AddArgs::node>("node", "A drive's id or a node's name."),
    field<&block::AddArgs::name>("name", "Name of the new bitmap."),
    field<&block::AddArgs::granularity>("granularity", "Bytes that one bit stands for: a power of two, 512 at least."),
    field<&block::AddArgs::persistent>("persistent", "Keep it in the image; not possible."),
    field<&block::AddArgs::disabled>("disabled", "Does not record at first."),
};
template <>
inline constexpr std::array fields<block::BitmapArgs> = {
    field<&block::BitmapArgs::node>("node", "A drive's id or a node's name."),
    field<&block::BitmapArgs::name>("name", "The bitmap."),
};
template <>
inline constexpr std::array fields<block::MergeArgs> = {
    field<&block::MergeArgs::node>("node", "A drive's id or a node's name."),
    field<&block::MergeArgs::target>("target", "The bitmap that takes the others' bits."),
    field<&block::MergeArgs::bitmaps>("bitmaps", "Names of bitmaps of this node, or node and name of others'."),
};

namespace block {
namespace {

constexpr usize longest_name = 1023;
constexpr u64 most_bits = u64{1} << 31;
using Undo = std::function<void()>;

struct Found {
  NodeRef node;
  BitmapRef bitmap;
};
Result<Found> find(const std::string& node, const std::string& name) {
  Found f{.node = TRY(node_of_device(node)), .bitmap = nullptr};
  f.bitmap = find_bitmap(*f.node, name);
  if (!f.bitmap) return fail("Dirty bitmap '{}' not found", name);
  return f;
}
Result<Found> find_free(const std::string& node, const std::string& name) {
  Found f = TRY(find(node, name));
  if (f.bitmap->busy()) return fail("Bitmap '{}' is currently in use by another operation and cannot be used", name);
  return f;
}

Result<Undo> add(const Value& arguments) {
  AddArgs a;
  TRY(assign_fields(&a, fields<AddArgs>, arguments));
  const NodeRef node = TRY(node_of_device(a.node));
  if (a.name.empty()) return fail("Bitmap name cannot be empty");
  if (a.name.size() > longest_name) return fail("Bitmap name too long");
  if (a.persistent.value_or(false)) return fail("Bitmaps that stay in the image are not possible; 'persistent' may be false only");
  const u32 usual = node->cluster_bytes() ? u32(std::clamp<u64>(node->cluster_bytes(), 4096, 64 * KiB)) : u32(64 * KiB);
  const u32 granularity = a.granularity.value_or(usual);
  if (granularity < 512) return fail("Granularity must be at least 512");
  if (!std::has_single_bit(granularity)) return fail("Granularity must be a power of 2");
  if (node->length_bytes() / granularity > most_bits) return fail("A bitmap of that granularity is too large for the disk");
  auto bitmap = std::make_shared<DirtyBitmap>(a.name, node->length_bytes(), granularity);
  bitmap->set_recording(!a.disabled.value_or(false));
  TRY(add_bitmap(*node, bitmap));
  return [node, bitmap] { remove_bitmap(*node, bitmap); };
}
Result<Undo> remove(const Value& arguments) {
  BitmapArgs a;
  TRY(assign_fields(&a, fields<BitmapArgs>, arguments));
  const Found f = TRY(find_free(a.node, a.name));
  remove_bitmap(*f.node, f.bitmap);
  return [f] { (void)add_bitmap(*f.node, f.bitmap); };
}
Result<Undo> clear(const Value& arguments) {
  BitmapArgs a;
  TRY(assign_fields(&a, fields<BitmapArgs>, arguments));
  const Found f = TRY(find_free(a.node, a.name));
  return [f, before = f.bitmap->take_bits()] { f.bitmap->add_bits(before); };
}
Result<Undo> record(const Value& arguments, bool on) {
  BitmapArgs a;
  TRY(assign_fields(&a, fields<BitmapArgs>, arguments));
  const Found f = TRY(find_free(a.node, a.name));
  const bool before = f.bitmap->recording();
  f.bitmap->set_recording(on);
  return [f, before] { f.bitmap->set_recording(before); };
}
Result<Undo> enable(const Value& arguments) { return record(arguments, true); }
Result<Undo> disable(const Value& arguments) { return record(arguments, false); }
Result<Undo> merge(const Value& arguments) {
  MergeArgs a;
  TRY(assign_fields(&a, fields<MergeArgs>, arguments));
  const Found target = TRY(find_free(a.node, a.target));
  std::vector<BitmapRef> from;
  for (const Value& v : a.bitmaps) {
    if (v.is_string()) {
      from.push_back(TRY(find(a.node, v.get_string())).bitmap);
    } else {
      BitmapArgs other;
      if (!v.is_object()) return fail("Invalid parameter type for 'bitmaps', expected: string or object");
      TRY(assign_fields(&other, fields<BitmapArgs>, v, "bitmaps"));
      from.push_back(TRY(find(other.node, other.name)).bitmap);
    }
  }
  const DirtyBitmap::Bits before = target.bitmap->bits();
  for (const auto& b : from)
    if (b != target.bitmap) target.bitmap->add_bitmap(*b);
  return [target, before] { (void)target.bitmap->exchange_bits(before); };
}

struct Step {
  std::string_view type;
  Result<Undo> (*take)(const Value&);
};
constexpr Step steps[] = {{"block-dirty-bitmap-add", add},         {"block-dirty-bitmap-remove", remove},
                          {"block-dirty-bitmap-clear", clear},     {"block-dirty-bitmap-enable", enable},
                          {"block-dirty-bitmap-disable", disable}, {"block-dirty-bitmap-merge", merge}};
const Step* find_step(std::string_view type) {
  for (const Step& s : steps)
    if (s.type == type) return &s;
  return nullptr;
}

template <usize index>
Task<Value> run(control::Context&, Value arguments) {
  // Members that do not belong come first, as everywhere.
  auto node = node_of_bitmap_action(arguments);
  Quiet quiet;
  if (node) co_await quiet.begin(**node);
  auto done = take_bitmap_action(steps[index].type, arguments);
  if (!done) co_return std::unexpected(std::move(done).error());
  co_return Value::object();
}
template <usize index>
control::Registered command_of(std::string_view doc, std::span<const Field> table, std::string_view since) {
  return control::Registered{
      control::Command{.info = {.name = steps[index].type, .doc = doc, .since = since}, .arguments = table, .run_slow = run<index>}};
}
control::Registered registered[] = {
    command_of<0>("Makes a dirty bitmap, which records what is written from now on.", fields<AddArgs>, "2.4"),
    command_of<1>("Removes a dirty bitmap.", fields<BitmapArgs>, "2.4"),
    command_of<2>("Takes all for unwritten.", fields<BitmapArgs>, "2.4"),
    command_of<3>("Lets a dirty bitmap record.", fields<BitmapArgs>, "4.0"),
    command_of<4>("Lets a dirty bitmap rest.", fields<BitmapArgs>, "4.0"),
    command_of<5>("Adds the bits of other dirty bitmaps to one.", fields<MergeArgs>, "4.0"),
};

}  // namespace

bool is_bitmap_action(std::string_view type) { return find_step(type); }
Result<NodeRef> node_of_bitmap_action(const Value& arguments) {
  const Value* node = arguments.find("node");
  if (!node || !node->is_string()) return fail("Parameter 'node' is missing");
  return node_of_device(node->get_string());
}
Result<std::function<void()>> take_bitmap_action(std::string_view type, const Value& arguments) {
  const Step* step = find_step(type);
  if (!step) return fail("Parameter 'actions.type' does not accept value '{}'", type.substr(0, 100));
  return step->take(arguments);
}

}  // namespace block
}  // namespace vmm
