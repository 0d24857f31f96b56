// Opening, closing and describing a qcow2 image. Source: "The QCOW2 image format", "General", "Feature name table".
#include "block/format/qcow2.h"

#include "block/core/backend.h"
#include "block/format/backing.h"
#include "src/base/log.h"
#include "src/control/command.h"
#include "src/event/loop_local.h"

namespace vmm::block {
namespace {
struct CorruptedData {
  std::string device, msg;
  std::optional<std::string> node_name;
  bool fatal = false;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::CorruptedData> = {
    field<&block::CorruptedData::device>("device", "Drive id; empty for a node without one."),
    field<&block::CorruptedData::node_name>("node-name", "The node."),
    field<&block::CorruptedData::msg>("msg", "What does not agree."),
    field<&block::CorruptedData::fatal>("fatal", "The image is marked corrupt and takes no more writes."),
};
using block::qcow2::Options;
template <>
inline constexpr std::array fields<Options> = {
    field<&Options::lazy_refcounts>("lazy-refcounts", "Postpone refcount updates."),
    field<&Options::pass_discard_request>("pass-discard-request", "Pass guest discard requests to the layer below.", {.optional = true}),
    field<&Options::pass_discard_snapshot>("pass-discard-snapshot", "Generate discard requests when snapshot related space is freed.",
                                           {.optional = true}),
    field<&Options::pass_discard_other>("pass-discard-other", "Generate discard requests when other clusters are freed.",
                                        {.optional = true}),
    field<&Options::discard_no_unref>("discard-no-unref", "Do not unreference discarded clusters.", {.optional = true}),
    field<&Options::overlap_check>("overlap-check", "Selects which overlap checks to perform: none, constant, cached, all.",
                                   {.optional = true}),
    field<&Options::cache_size>("cache-size", "Maximum combined metadata (L2 tables and refcount blocks) cache size.", {.optional = true}),
    field<&Options::l2_cache_size>("l2-cache-size", "Maximum L2 table cache size.", {.optional = true}),
    field<&Options::l2_cache_entry_size>("l2-cache-entry-size", "Size of each entry in the L2 cache.", {.optional = true}),
    field<&Options::refcount_cache_size>("refcount-cache-size", "Maximum refcount block cache size.", {.optional = true}),
    field<&Options::cache_clean_interval>("cache-clean-interval", "Clean unused cache entries after this time (in seconds).",
                                          {.optional = true}),
    field<&Options::repair>("repair", "Repair a dirty image when it is opened for writing.", {.optional = true, .hidden = true}),
    field<&Options::inspect>("inspect", "Open for checking, whatever its state.", {.optional = true, .hidden = true}),
};
}  // namespace vmm

namespace vmm::block {
using namespace qcow2;

const std::span<const Field> Qcow2::option_fields = fields<qcow2::Options>;

Qcow2::Qcow2() = default;
Qcow2::~Qcow2() = default;

std::pair<u8, u8> Qcow2::child_permissions(Role role, u8 needs, u8 shares) const {
  auto [need, share] = BlockNode::child_permissions(role, needs, shares);
  if (BlockNode::options().force_share && read_only()) share = permit_all;
  return {need, share};
}

namespace {
constexpr control::EventInfo corrupted_event{.name = "BLOCK_IMAGE_CORRUPTED",
                                             .doc = "The tables of an image do not agree with one another.",
                                             .data = &Codec<CorruptedData>::description};
control::RegisteredEvent corrupted_registered{corrupted_event};

void tell_corrupted(CorruptedData data) {
  for (const auto& backend : all_backends())
    if (backend->node() && backend->node()->node_name() == *data.node_name) data.device = backend->id();
  control::emit(corrupted_event, Codec<CorruptedData>::to_value(data));
}
}  // namespace

// Where all metadata has agreed so far, but this does not: nothing is written any more, and the image says so to others.
void Qcow2::mark_corrupt(std::string why) {
  if (!corrupt_.empty()) return;
  corrupt_ = format("qcow2: Marking image as corrupt: {}; further corruption events will be suppressed", why);
  report_error(corrupt_);
  if (open_) opener_->post([data = CorruptedData{.msg = why, .node_name = node_name(), .fatal = !read_only()}] { tell_corrupted(data); });
  if (read_only() || inactive() || header_.version < 3 || !open_) return;
  header_.incompatible |= feature::corrupt;
  const auto mark = [](Qcow2& image) -> Task<> {
    if (co_await attempt(image.write_features())) (void)co_await attempt(image.file().flush());
    image.marking_ = false;
    image.marked_.wake_all();
    co_return Result<>{};
  };
  // No reference is held meanwhile: with one the graph would not close this node, and close() waits for the mark.
  marking_ = true;
  mark(*this).start([](Result<>) {});
}
std::unexpected<Error> Qcow2::corrupt(std::string why) {
  mark_corrupt(why);
  return refuse(EIO, std::move(why));
}

Task<> Qcow2::read_header() {
  std::vector<u8> head(std::min<u64>(512, file().length_bytes()));
  co_await file().read(0, IoVector{std::span{head}});
  const Result<u64> span = header_span(head);
  if (!span) co_return std::unexpected(span.error());
  head.resize(std::min<u64>(*span, file().length_bytes()));
  co_await file().read(0, IoVector{std::span{head}});
  Result<Header> header = parse_header(head);
  if (!header) co_return std::unexpected(std::move(header).error());
  header_ = std::move(*header);
  g_ = header_.geometry();
  co_return Result<>{};
}

Task<std::vector<u64>> Qcow2::read_l1(u64 offset, u32 size) {
  std::vector<u64> table(size);
  if (size) co_await file().read(offset, IoVector{table.data(), table.size() * 8});
  for (u64& e : table) e = std::byteswap(e);
  co_return std::move(table);
}

Task<> Qcow2::read_tables() {
  // A table that lies past the file's end is not read as zeros: that would make memory of a header's word.
  const u64 length = file().length_bytes(), end = align_up(length, g_.cluster_bytes());
  if (header_.l1_offset + u64{header_.l1_size} * 8 > end)
    co_return fail("the active L1 table ({:#x}, {} entries) reaches past the end of the file ({:#x}); run 'vmm img check'",
                   header_.l1_offset, header_.l1_size, length);
  const u64 table_bytes = u64{header_.refcount_table_clusters} << g_.cluster_bits;
  if (header_.refcount_table_offset + table_bytes > end)
    co_return fail("the refcount table ({:#x}, {} bytes) reaches past the end of the file ({:#x}); run 'vmm img check'",
                   header_.refcount_table_offset, table_bytes, length);
  l1_ = co_await read_l1(header_.l1_offset, header_.l1_size);
  refcount_table_ = co_await read_l1(header_.refcount_table_offset, static_cast<u32>(table_bytes / 8));
  snapshots_.clear(), snapshot_table_bytes_ = 0;
  if (header_.snapshot_count) {
    if (header_.snapshots_offset >= length)
      co_return fail("the snapshot table lies at {:#x}, past the end of the file", header_.snapshots_offset);
    std::vector<u8> bytes(std::min<u64>(max_snapshot_table_bytes, length - header_.snapshots_offset));
    // Most tables are small: no more is read than needed.
    bytes.resize(std::min<u64>(bytes.size(), std::max<u64>(64 * KiB, u64{header_.snapshot_count} * 256)));
    co_await file().read(header_.snapshots_offset, IoVector{std::span{bytes}});
    auto list = parse_snapshots(bytes, header_.snapshot_count, header_.virtual_bytes, &snapshot_table_bytes_);
    if (!list && bytes.size() < std::min<u64>(max_snapshot_table_bytes, length - header_.snapshots_offset)) {
      bytes.resize(std::min<u64>(max_snapshot_table_bytes, length - header_.snapshots_offset));
      co_await file().read(header_.snapshots_offset, IoVector{std::span{bytes}});
      list = parse_snapshots(bytes, header_.snapshot_count, header_.virtual_bytes, &snapshot_table_bytes_);
    }
    if (!list) co_return std::unexpected(std::move(list).error());
    snapshots_ = std::move(*list);
    for (const Snapshot& s : snapshots_) {
      if (s.l1_offset > end || u64{s.l1_size} * 8 > end - s.l1_offset)
        co_return fail("the L1 table of snapshot '{}' reaches past the end of the file", s.name);
      if (auto ok = check_table(s.l1_offset, u64{s.l1_size} * 8, g_, format("L1 table of snapshot '{}'", s.name)); !ok) co_return ok;
    }
  }
  end_cluster_ = g_.clusters(length);
  free_hint_ = 0;
  overlap_stale_ = true;
  co_return Result<>{};
}

Task<> Qcow2::open(Value options) {
  opener_ = current_loop();
  if (!child("file")) co_return fail("A block device must be specified for \"file\"");
  Value backing_option;
  bool has_backing_option = false;
  if (const Value* v = options.find("backing")) backing_option = *v, has_backing_option = true, options.erase("backing");
  options_.pass_discard_request = BlockNode::options().discard == DiscardMode::unmap;
  if (auto ok = assign_fields(&options_, fields<qcow2::Options>, options); !ok) co_return ok;
  co_await read_header();
  co_await read_tables();
  if (marked_corrupt() && !read_only() && !options_.inspect)
    co_return refuse(EACCES, "qcow2: Image is corrupt; cannot be opened read/write");

  // The external data file: named by the user, or by the image.
  if (header_.incompatible & feature::data_file) {
    if (!child("data-file")) {
      if (header_.data_file.empty()) co_return fail("'data-file' is required for this image");
      Value tree = co_await tree_for_named_file(loop(), filename(), resolve_name(filename(), header_.data_file), "raw");
      co_await open_child("data-file", Role::data_file, std::move(tree));
    }
    data_ = child("data-file");
  } else if (child("data-file")) {
    co_return fail("'data-file' can only be set for images with an external data file");
  }
  if (has_backing_option && backing_option.is_null()) {
    // the user wants none
  } else if (has_backing_option) {
    co_await open_child("backing", Role::backing, std::move(backing_option));
  } else if (!header_.backing_file.empty() && !options_.inspect) {
    auto tree =
        co_await attempt(tree_for_named_file(loop(), filename(), resolve_name(filename(), header_.backing_file), header_.backing_format));
    Result<> opened;
    if (tree)
      opened = co_await attempt(open_child("backing", Role::backing, std::move(*tree)));
    else
      opened = std::unexpected(tree.error());
    if (!opened) {
      Error e = opened.error();
      e.message = format("Could not open backing file: {}", e.message);
      co_return std::unexpected(std::move(e));
    }
  }

  const std::string& checks = options_.overlap_check;
  if (checks.empty() || checks == "cached")
    overlap_ = Overlap::cached;
  else if (checks == "none" || checks == "constant" || checks == "all")
    overlap_ = checks == "none" ? Overlap::none : checks == "constant" ? Overlap::constant : Overlap::all;
  else
    co_return fail("Unsupported value '{}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all",
                   checks);
  if (options_.inspect) overlap_ = Overlap::none;  // tables may contradict one another: that is what is looked for
  // Caches. A slice is what is read and written at once.
  u64 slice = std::min<u64>(g_.cluster_bytes(), 4096);
  if (const u64 wanted = options_.l2_cache_entry_size) {
    if (!std::has_single_bit(wanted) || wanted < 512 || wanted > g_.cluster_bytes())
      co_return fail("L2 cache entry size must be a power of two between 512 and the cluster size ({})", g_.cluster_bytes());
    slice = wanted;
  }
  // Enough for the whole disk, at most 32 MiB.
  const u64 whole_l2 = g_.clusters(header_.virtual_bytes) * g_.l2_entry_bytes();
  u64 l2_bytes = options_.l2_cache_size ? u64{options_.l2_cache_size} : std::min<u64>(whole_l2, 32 * MiB);
  u64 refcount_bytes = options_.refcount_cache_size ? u64{options_.refcount_cache_size} : std::max<u64>(l2_bytes / 4, 256 * KiB);
  if (const u64 both = options_.cache_size) {
    if (options_.l2_cache_size && options_.refcount_cache_size)
      co_return fail("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
    if (options_.l2_cache_size > both) co_return fail("l2-cache-size may not exceed cache-size");
    if (options_.refcount_cache_size > both) co_return fail("refcount-cache-size may not exceed cache-size");
    if (options_.l2_cache_size)
      refcount_bytes = both - l2_bytes;
    else if (options_.refcount_cache_size)
      l2_bytes = both - refcount_bytes;
    else
      refcount_bytes = std::min<u64>(both / 5, refcount_bytes), l2_bytes = both - refcount_bytes;
  }
  l2_.set_up(file(), slice, std::max<u64>(l2_bytes, 64 * slice));
  refcounts_.set_up(file(), std::min<u64>(g_.cluster_bytes(), 4096), std::max<u64>(refcount_bytes, 256 * KiB));

  lazy_ = options_.lazy_refcounts.value_or((header_.compatible & feature::lazy_refcounts) != 0);
  if (lazy_ && header_.version < 3) {
    if (options_.lazy_refcounts) co_return fail("Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
    lazy_ = false;
  }
  open_ = true;
  co_return co_await repair_if_dirty();
}

Task<> Qcow2::repair_if_dirty() {
  if (!marked_dirty() || read_only() || inactive() || !options_.repair || options_.inspect) co_return Result<>{};
  const CheckResult result = co_await check(Repair::all);
  if (result.errors || result.corruptions > result.corruptions_fixed)
    co_return refuse(EIO, "Could not repair dirty image; run 'vmm img check -r all'");
  co_return Result<>{};
}

Task<> Qcow2::inactivate() {
  auto done = co_await attempt(close());
  open_ = true, prepared_ = false;
  co_return done;
}
// All of it anew: another has written to the image.
Task<> Qcow2::activate() {
  l2_.forget_all(), refcounts_.forget_all();
  l1_dirty_.clear(), refcount_table_dirty_.clear(), moved_table_.reset();
  tracked_.clear(), bitmap_directory_.clear(), bitmaps_read_ = false;
  reserved_.clear(), frees_.clear();
  claimed_ = settling_ = compressed_at_ = unpacked_entry_ = 0;
  cycle_mark_ = prepared_ = data_unflushed_ = false;
  corrupt_.clear();
  co_await read_header();
  co_await read_tables();
  if (marked_corrupt() && !read_only() && !options_.inspect)
    co_return refuse(EACCES, "qcow2: Image is corrupt; cannot be opened read/write");
  co_return co_await repair_if_dirty();
}

Task<> Qcow2::close() {
  if (!open_) co_return Result<>{};
  Result<> done;
  if (!read_only() && !inactive() && corrupt_.empty()) {
    if (held_) (void)co_await attempt(release_held());
    if (!tracked_.empty()) done = co_await attempt(store_tracked_bitmaps());
    Result<> flushed = co_await attempt(write_back(true));
    // The counts that went down in that cycle, and what lazy refcounts have put off.
    if (flushed && lazy_) {
      const bool was = std::exchange(lazy_, false);
      flushed = co_await attempt(write_back(true));
      lazy_ = was;
    }
    if (flushed) flushed = co_await attempt(write_back(true));
    if (flushed && marked_dirty() && prepared_) flushed = co_await attempt(set_dirty(false));
    if (done) done = flushed;
  }
  while (marking_) co_await marked_.wait();  // others shall find the mark
  open_ = false;
  co_return done;
}

Task<> Qcow2::reopen(const NodeOptions& options) {
  if (options.read_only && !read_only()) {
    co_await close();
    open_ = true, prepared_ = false;
  } else if (!options.read_only && read_only() && marked_corrupt()) {
    co_return refuse(EACCES, "qcow2: Image is corrupt; cannot be opened read/write");
  }
  co_return co_await BlockNode::reopen(options);
}

// The first sector: feature words, sizes and table addresses change at once or not at all.
Task<> Qcow2::write_header_words() {
  Result<std::vector<u8>> bytes = build_header(header_);
  if (!bytes) co_return std::unexpected(std::move(bytes).error());
  std::vector<u8> old(112);
  co_await file().read(0, IoVector{std::span{old}});
  // Only the fixed fields: the name and the extensions stay where they are.
  std::span<u8> fresh{*bytes};
  const u64 fixed = header_.version == 2 ? 72 : std::min<u64>(load_be<u32>(&old[100]), 104);
  std::ranges::copy(std::span{old}.subspan(8, 12), fresh.begin() + 8);
  if (header_.version == 3) std::ranges::copy(std::span{old}.subspan(100, 4), fresh.begin() + 100);
  co_return co_await file().write(0, IoVector{fresh.first(fixed)});
}
Task<> Qcow2::write_header() {
  Result<std::vector<u8>> bytes = build_header(header_);
  if (!bytes) co_return std::unexpected(std::move(bytes).error());
  co_await file().write(0, IoVector{std::span{*bytes}});
  if (header_.version == 3) header_.header_length = static_cast<u32>(112 + header_.unknown_fields.size());
  co_return Result<>{};
}

Task<> Qcow2::write_features() {
  std::array<u8, 8> word;
  store_be(word.data(), header_.incompatible);
  co_return co_await file().write(72, IoVector{std::span<u8>{word}});
}

Task<> Qcow2::set_dirty(bool on) {
  cycle_mark_ = false;
  if (header_.version < 3 || marked_dirty() == on) co_return Result<>{};
  if (!on) co_await file_flush();
  const u64 old = header_.incompatible;
  header_.incompatible = on ? old | feature::dirty : old & ~feature::dirty;
  Result<> done = co_await attempt(write_header_words());
  if (done) done = co_await attempt(file_flush());
  if (!done) header_.incompatible = old;
  co_return done;
}

Task<> Qcow2::prepare_write() {
  if (!corrupt_.empty()) co_return refuse(EIO, corrupt_);
  if (marked_corrupt() && !options_.inspect) co_return refuse(EIO, "qcow2: the image is marked corrupt");
  if (read_only()) co_return fail_os(EROFS);
  const auto guard = co_await preparing_.lock();
  if (prepared_) co_return Result<>{};
  // Features that say of themselves that who does not know them must clear them.
  if (header_.autoclear & ~feature::known_autoclear) {
    header_.autoclear &= feature::known_autoclear;
    co_await write_header_words();
    co_await file_flush();
  }
  if (header_.bitmaps) co_await mark_bitmaps_in_use();
  if (lazy_) co_await set_dirty(true);
  prepared_ = true;
  co_return Result<>{};
}

void Qcow2::tidy() {
  if (++requests_ % 256 || !options_.cache_clean_interval) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - tidied_ < std::chrono::seconds{options_.cache_clean_interval}) return;
  tidied_ = now;
  l2_.drop_unused();
  refcounts_.drop_unused();
}

Limits Qcow2::limits() const {
  Limits l;
  l.discard_granularity = g_.cluster_bytes();
  l.optimal_transfer = g_.cluster_bytes();
  if (header_.crypt_method) l.request_alignment = 512;
  return l;
}

Value Qcow2::specific_info() const {
  Value data = Value::object();
  data.set("compat", Value{header_.version == 2 ? "0.10" : "1.1"});
  data.set("compression-type", Value{header_.compression == Compression::zlib ? "zlib" : "zstd"});
  if (header_.version >= 3) data.set("lazy-refcounts", Value{(header_.compatible & feature::lazy_refcounts) != 0});
  if (bitmaps_read_ && !bitmap_directory_.empty()) {
    Value list = Value::list();
    for (const Bitmap& b : bitmap_directory_) {
      Value flags = Value::list();
      if (b.flags & Bitmap::in_use) flags.append(Value{"in-use"});
      if (b.flags & Bitmap::automatic) flags.append(Value{"auto"});
      list.append(Value{
          Value::Members{{"flags", std::move(flags)}, {"name", Value{b.name}}, {"granularity", Value{u64{1} << b.granularity_bits}}}});
    }
    data.set("bitmaps", std::move(list));
  }
  data.set("refcount-bits", Value{g_.refcount_bits()});
  if (!header_.data_file.empty()) data.set("data-file", Value{header_.data_file});
  if (header_.incompatible & feature::data_file) data.set("data-file-raw", Value{(header_.autoclear & feature::raw_data_file) != 0});
  if (header_.version >= 3) {
    data.set("corrupt", Value{marked_corrupt()});
    data.set("extended-l2", Value{g_.extended_l2});
  }
  return Value{Value::Members{{"type", Value{"qcow2"}}, {"data", std::move(data)}}};
}

Value Qcow2::snapshots_info() const {
  if (snapshots_.empty()) return {};
  Value list = Value::list();
  for (const Snapshot& s : snapshots_) {
    Value v = Value::object();
    if (s.has_icount && s.icount != -1) v.set("icount", Value{s.icount});
    v.set("vm-clock-nsec", Value{s.vm_clock % 1'000'000'000});
    v.set("name", Value{s.name});
    v.set("date-sec", Value{s.seconds});
    v.set("date-nsec", Value{s.nanoseconds});
    v.set("vm-clock-sec", Value{s.vm_clock / 1'000'000'000});
    v.set("id", Value{s.id});
    v.set("vm-state-size", Value{s.vm_state_bytes});
    list.append(std::move(v));
  }
  return list;
}

}  // namespace vmm::block
