// vmdk: VMware's hosted disks: monolithicSparse read and written, streamOptimized read, and descriptors that name flat or sparse extents in
// files beside them (monolithicFlat, twoGbMaxExtentFlat, twoGbMaxExtentSparse, vmfs), read and written. Source: "Virtual Disk Format 5.0"
// (VMware technical note). Images with a parent are refused.
#include <zlib.h>

#include <algorithm>

#include "block/format/backing.h"
#include "block/format/table_image.h"
#include "block/format/vmdk_descriptor.h"
#include "src/event/worker_pool.h"

namespace vmm::block {
namespace {

constexpr u32 magic = 0x564d444b;  // "KDMV"
constexpr u32 has_zero_grains = 1 << 2, is_compressed = 1 << 16;
constexpr u64 sector = 512, descriptor_sectors = 20;

struct VmdkCreate {
  std::optional<std::string> subformat, adapter_type, hwversion, toolsversion;
  std::optional<bool> zeroed_grain, compat6;
};
}  // namespace
}  // namespace vmm::block

namespace vmm {
template <>
inline constexpr std::array fields<block::VmdkCreate> = {
    field<&block::VmdkCreate::adapter_type>("adapter_type",
                                            "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX"),
    field<&block::VmdkCreate::compat6>("compat6", "VMDK version 6 image"),
    field<&block::VmdkCreate::hwversion>("hwversion", "VMDK hardware version"),
    field<&block::VmdkCreate::subformat>("subformat", "VMDK flat extent format, can be one of {monolithicSparse (default)}"),
    field<&block::VmdkCreate::toolsversion>("toolsversion", "VMware guest tools version"),
    field<&block::VmdkCreate::zeroed_grain>("zeroed_grain", "Enable efficient zero writes using the zeroed-grain GTE feature"),
};
}  // namespace vmm

namespace vmm::block {
namespace {

struct SparseHeader {
  u32 flags = 0, entries_per_table = 512;
  u64 capacity = 0, grain = 128, descriptor_offset = 0, descriptor_size = 0, redundant_directory = 0, directory = 0;
  u16 compression = 0;
};
Result<SparseHeader> parse_header(std::span<const u8> bytes) {
  SpanReader r{bytes};
  SparseHeader h;
  if (TRY(r.le<u32>("magic")) != magic) return fail("not a VMDK sparse extent");
  const u32 version = TRY(r.le<u32>("version")).raw();
  if (version < 1 || version > 3) return fail("Unsupported VMDK version {}", version);
  h.flags = TRY(r.le<u32>("flags")).raw();
  h.capacity = TRY(TRY(r.le<u64>("capacity")).at_most(u64{1} << 45, "capacity in sectors"));
  h.grain = TRY(r.le<u64>("grain size")).raw();
  h.descriptor_offset = TRY(r.le<u64>("descriptor offset")).raw();
  h.descriptor_size = TRY(r.le<u64>("descriptor size")).raw();
  h.entries_per_table = TRY(r.le<u32>("grain table size")).raw();
  h.redundant_directory = TRY(r.le<u64>("redundant grain directory")).raw();
  h.directory = TRY(r.le<u64>("grain directory")).raw();
  TRY(r.seek(77, "header"));
  h.compression = TRY(r.le<u16>("compression")).raw();
  if (!std::has_single_bit(h.grain) || h.grain < 8 || h.grain > 2048)
    return fail("Invalid granularity, image may be corrupt (grains of {} sectors)", h.grain);
  if (h.entries_per_table != 512) return fail("L2 table size of {} entries is not supported", h.entries_per_table);
  if ((h.flags & is_compressed) && h.compression != 1) return fail("unknown compression algorithm {}", h.compression);
  return h;
}
using vmdk::value_of;

class Vmdk final : public TableImage {
 public:
  Task<> open(Value options) override {
    if (!child("file")) co_return fail("A block device must be specified for \"file\"");
    // An extent is no descriptor itself: they could name one another without end.
    const bool is_extent = options.find("is-extent");
    options.erase("is-extent");
    if (!options.members().empty()) co_return fail("Parameter '{}' is unexpected", options.members()[0].first);
    const u64 file_length = child("file")->length_bytes();
    std::vector<u8> head(sector);
    co_await child("file")->read(0, IoVector{std::span{head}});
    if (vmdk::is_descriptor(head)) {
      if (is_extent) co_return fail("a VMDK extent is a descriptor itself");
      co_return co_await open_extents(file_length);
    }
    auto parsed = parse_header(head);
    if (!parsed) co_return std::unexpected(std::move(parsed).error());
    if (parsed->directory == ~u64{0}) {
      // streamOptimized: the header that counts was written last.
      if (file_length < 3 * sector) co_return fail("the VMDK image is cut off before its footer");
      co_await child("file")->read(align_down(file_length, sector) - 2 * sector, IoVector{std::span{head}});
      parsed = parse_header(head);
      if (!parsed) co_return std::unexpected(std::move(parsed).error());
    }
    header_ = *parsed;
    if (header_.descriptor_offset && header_.descriptor_size) {
      const u64 bytes = std::min<u64>(header_.descriptor_size, 128) * sector;
      if (header_.descriptor_offset > file_length / sector) co_return fail("the VMDK descriptor lies past the end of the file");
      std::string text(bytes, '\0');
      co_await child("file")->read(header_.descriptor_offset * sector, IoVector{text.data(), bytes});
      const std::string parent = value_of(text, "parentCID=");
      if (!parent.empty() && parent != "ffffffff") co_return fail_os(ENOTSUP, "a VMDK image with a parent");
      type_ = value_of(text, "createType=");
      if (!type_.empty() && type_ != "monolithicSparse" && type_ != "streamOptimized") co_return fail("Unsupported image type '{}'", type_);
    }
    packed_ = header_.flags & is_compressed;
    if (packed_ && !read_only()) co_return fail_os(EROFS, "a streamOptimized VMDK image is read only");
    length_ = header_.capacity * sector, block_bytes_ = header_.grain * sector;
    const u64 grains = header_.capacity / header_.grain + (header_.capacity % header_.grain != 0);
    if (grains > most_entries) co_return fail("the VMDK image has {} grains, more than the {} that are supported", grains, most_entries);
    const u64 tables = grains / 512 + (grains % 512 != 0);
    if (header_.directory > file_length / sector || tables * 4 > file_length - header_.directory * sector)
      co_return fail("the VMDK grain directory is past the end of the file");
    std::vector<u8> directory(tables * 4), redundant(tables * 4);
    co_await child("file")->read(header_.directory * sector, IoVector{std::span{directory}});
    const bool twice = (header_.flags & 2) && header_.redundant_directory && header_.redundant_directory <= file_length / sector;
    if (twice) co_await child("file")->read(header_.redundant_directory * sector, IoVector{std::span{redundant}});
    table_.assign(grains, absent);
    tables_.resize(tables), redundant_.resize(tables);
    std::vector<u8> entries(2048);
    for (u64 t = 0; t < tables; t++) {
      tables_[t] = load_le<u32>(&directory[t * 4]), redundant_[t] = twice ? load_le<u32>(&redundant[t * 4]) : 0;
      if (!tables_[t]) continue;
      if (u64{tables_[t]} * sector > file_length) co_return fail("VMDK grain table {} lies past the end of the file", t);
      co_await child("file")->read(u64{tables_[t]} * sector, IoVector{std::span{entries}});
      for (u64 i = 0; i < 512 && t * 512 + i < grains; i++) {
        const u32 at = load_le<u32>(&entries[i * 4]);
        if (at == 1 && (header_.flags & has_zero_grains))
          table_[t * 512 + i] = zero;
        else if (at)
          table_[t * 512 + i] = u64{at} * sector;
      }
    }
    end_ = align_up(file_length, block_bytes_);
    co_return Result<>{};
  }
  // Of several files each request goes to whose extent it falls into.
  Task<> read(u64 offset, IoVector into) override {
    if (extents_.empty()) co_return co_await TableImage::read(offset, std::move(into));
    while (!into.empty()) {
      const Part part = part_at(offset);
      IoVector here = into.take(part.length);
      const u64 size = here.size();
      if (part.file)
        co_await part.file->read(part.at, std::move(here));
      else
        here.fill(0);
      offset += size;
    }
    co_return Result<>{};
  }
  Task<> write(u64 offset, IoVector from, WriteFlags flags) override {
    if (extents_.empty()) co_return co_await TableImage::write(offset, std::move(from), flags);
    while (!from.empty()) {
      const Part part = part_at(offset);
      IoVector here = from.take(part.length);
      const u64 size = here.size();
      if (!part.file) co_return fail_os(EROFS, "an extent of zeros cannot be written");
      co_await part.file->write(part.at, std::move(here));
      offset += size;
    }
    if (flags.fua) co_await flush();
    co_return Result<>{};
  }
  Task<Extent> map(u64 offset, u64 length) override {
    if (extents_.empty()) co_return co_await TableImage::map(offset, length);
    const Part part = part_at(offset);
    if (!part.file) co_return Extent{.kind = Extent::Kind::zero, .length = std::min(length, part.length), .present = false};
    Extent e = co_await part.file->map(part.at, std::min(length, part.length));
    e.has_host_offset = false;  // in a file that is not our file child
    if (e.kind == Extent::Kind::backing) e.kind = Extent::Kind::zero;
    co_return e;
  }
  Value specific_info() const override {
    Value extent = Value::object();
    extent.set("format", Value{packed_ ? "" : "SPARSE"});
    Value data = Value::object();
    data.set("create-type", Value{type_});
    return Value{Value::Members{{"type", Value{"vmdk"}}, {"data", std::move(data)}}};
  }

 private:
  struct Part {
    Edge* file = nullptr;  // null: zeros
    u64 at = 0, length = 0;
  };
  Part part_at(u64 offset) const {
    const auto after = std::ranges::upper_bound(extents_, offset, {}, &Placed::begin);
    const Placed& e = *std::prev(after);
    return {e.file, e.in_file + (offset - e.begin), e.begin + e.bytes - offset};
  }
  Task<> open_extents(u64 file_length) {
    if (file_length > vmdk::most_descriptor_bytes) co_return fail("the VMDK descriptor has {} bytes", file_length);
    std::string text(file_length, '\0');
    co_await child("file")->read(0, IoVector{text.data(), text.size()});
    auto parsed = vmdk::parse_descriptor(text);
    if (!parsed) co_return std::unexpected(std::move(parsed).error());
    type_ = parsed->type;
    const std::string own = filename();
    for (usize i = 0; i < parsed->extents.size(); i++) {
      const vmdk::ExtentLine& e = parsed->extents[i];
      Placed placed{.begin = length_, .bytes = e.sectors * sector, .in_file = e.offset * sector};
      if (e.kind != vmdk::ExtentLine::Kind::zero) {
        Value tree = Value::object();
        tree.set("driver", Value{e.kind == vmdk::ExtentLine::Kind::flat ? "raw" : "vmdk"});
        tree.set("file", Value{Value::Members{{"driver", Value{"file"}}, {"filename", Value{resolve_name(own, "./" + e.file)}}}});
        if (e.kind == vmdk::ExtentLine::Kind::sparse) tree.set("is-extent", true);
        if (!e.writable) tree.set("read-only", true);
        if (auto ok = check_image_word(own, *tree.find("file"), false); !ok) co_return std::unexpected(std::move(ok).error());
        if (!e.writable && !read_only()) co_return fail_os(EROFS, format("extent '{}' of the VMDK image is read only", e.file));
        const std::string name = format("extents.{}", i);
        co_await open_child(name, Role::data_file, std::move(tree));
        placed.file = child(name);
        const u64 there = placed.file->length_bytes();
        if (placed.in_file > there || placed.bytes > there - placed.in_file)
          co_return fail("extent '{}' of the VMDK image has {} bytes, and {} are needed", e.file, there, placed.in_file + placed.bytes);
      }
      length_ += placed.bytes;
      if (length_ > u64{1} << 54) co_return fail("the VMDK image has more than {} bytes", u64{1} << 54);
      extents_.push_back(placed);
    }
    block_bytes_ = 64 * KiB;
    co_return Result<>{};
  }
  Task<u64> claim_block(u64 index) override {
    if (!tables_[index / 512]) co_return fail_os(ENOTSUP, "a VMDK image without its grain tables");
    const u64 at = end_;
    if (at / sector > 0xffff'ffff) co_return fail_os(EFBIG);
    end_ += block_bytes_;
    co_return at;
  }
  Task<> store_entry(u64 index) override {
    std::array<u8, 4> entry;
    store_le(entry.data(), static_cast<u32>(table_[index] / sector));
    if (redundant_[index / 512])
      co_await file().write(u64{redundant_[index / 512]} * sector + index % 512 * 4, IoVector{std::span<u8>{entry}});
    co_return co_await file().write(u64{tables_[index / 512]} * sector + index % 512 * 4, IoVector{std::span<u8>{entry}});
  }
  Task<bool> read_block(u64 index, u64 at, IoVector into) override {
    if (!packed_) co_return false;
    if (index != unpacked_index_ || unpacked_.empty()) {
      std::array<u8, 12> marker{};
      co_await file().read(table_[index], IoVector{std::span<u8>{marker}});
      const u32 bytes = load_le<u32>(&marker[8]);
      if (bytes > block_bytes_ * 2 + 64) co_return fail_os(EIO, format("compressed grain {} claims {} bytes", index, bytes));
      std::vector<u8> packed(bytes), plain(block_bytes_);
      co_await file().read(table_[index] + 12, IoVector{std::span{packed}});
      uLongf made = plain.size();
      const int done = ::uncompress(plain.data(), &made, packed.data(), packed.size());
      if (done != Z_OK) co_return fail_os(EIO, format("compressed grain {} is damaged", index));
      unpacked_ = std::move(plain), unpacked_index_ = index;
    }
    into.copy_in(std::span{unpacked_}.subspan(at, into.size()));
    co_return true;
  }
  struct Placed {
    u64 begin = 0, bytes = 0, in_file = 0;  // of the disk; where it begins in the file
    Edge* file = nullptr;
  };
  std::vector<Placed> extents_;  // of an image of several files, by begin
  SparseHeader header_;
  std::string type_;
  bool packed_ = false;
  std::vector<u32> tables_, redundant_;
  u64 end_ = 0, unpacked_index_ = 0;
  std::vector<u8> unpacked_;
};

Task<> create(Edge& file, CreateOptions given) {
  VmdkCreate o;
  if (auto ok = assign_fields(&o, fields<VmdkCreate>, given.options); !ok) co_return ok;
  if (o.subformat && *o.subformat != "monolithicSparse")
    co_return fail_os(ENOTSUP, format("VMDK subformat '{}' (monolithicSparse is)", *o.subformat));
  const std::string adapter = o.adapter_type.value_or("ide");
  if (adapter != "ide" && adapter != "lsilogic" && adapter != "buslogic" && adapter != "legacyESX")
    co_return fail("Unknown adapter type: '{}'", adapter);
  if (o.compat6.value_or(false) && o.hwversion) co_return fail("compat6 cannot be enabled with hwversion set");
  const std::string hardware = o.compat6.value_or(false) ? "6" : o.hwversion.value_or("4");
  const std::string tools = o.toolsversion.value_or("2147483647");
  for (const std::string& version : {hardware, tools})
    if (version.empty() || version.size() > 10 || version.find_first_not_of("0123456789") != std::string::npos)
      co_return fail("hwversion and toolsversion take a number, not '{}'", version);
  constexpr u64 grain = 128, table_sectors = 4;
  const u64 capacity = given.length_bytes / sector;
  const u64 grains = capacity / grain + (capacity % grain != 0), tables = grains / 512 + (grains % 512 != 0);
  if (grains > u64{8} << 20) co_return fail_os(EFBIG, "the disk is too large for this kind of VMDK image");
  const u64 directory_sectors = std::max<u64>((tables * 4 + sector - 1) / sector, 1);
  const u64 redundant = 1 + descriptor_sectors, directory = redundant + directory_sectors + table_sectors * tables;
  const u64 data = align_up(directory + directory_sectors + table_sectors * tables, grain);
  std::vector<u8> head(data * sector);
  store_le(&head[0], magic), store_le(&head[4], u32{1}), store_le(&head[8], u32{3});
  store_le(&head[12], capacity), store_le(&head[20], grain), store_le(&head[28], u64{1}), store_le(&head[36], descriptor_sectors);
  store_le(&head[44], u32{512}), store_le(&head[48], redundant), store_le(&head[56], directory), store_le(&head[64], data);
  head[73] = '\n', head[74] = ' ', head[75] = '\r', head[76] = '\n';
  std::string name = file.node().filename();
  name.erase(0, name.rfind('/') + 1);
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const u64 heads = adapter == "ide" ? 16 : 255;
  const std::string text = format(
      "# Disk DescriptorFile\nversion=1\nCID={:08x}\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n# Extent description\nRW {} "
      "SPARSE \"{}\"\n\n"
      "# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\nddb.geometry.cylinders = \"{}\"\nddb.geometry.heads = "
      "\"{}\"\nddb.geometry.sectors = \"63\"\n"
      "ddb.adapterType = \"{}\"\nddb.toolsVersion = \"{}\"\n",
      static_cast<u32>(now.tv_nsec ^ now.tv_sec), capacity, name, hardware, capacity / (63 * heads), heads, adapter, tools);
  if (text.size() > descriptor_sectors * sector) co_return fail("the image's name is too long for its descriptor");
  std::ranges::copy(text, head.begin() + sector);
  for (u64 t = 0; t < tables; t++) {
    store_le(&head[redundant * sector + t * 4], static_cast<u32>(redundant + directory_sectors + t * table_sectors));
    store_le(&head[directory * sector + t * 4], static_cast<u32>(directory + directory_sectors + t * table_sectors));
  }
  if (file.length_bytes()) co_await file.truncate(0);
  co_return co_await file.write(0, IoVector{std::span{head}});
}

constexpr std::string_view children[] = {"file"};
RegisteredDriver registered{{.name = "vmdk",
                             .doc = "VMware disk images.",
                             .kind = BlockDriver::Kind::format,
                             .children = children,
                             .make = make_node<Vmdk>,
                             .probe =
                                 [](std::span<const u8> head, std::string_view) {
                                   return (head.size() >= 4 && load_le<u32>(head.data()) == magic) || vmdk::is_descriptor(head) ? 100 : 0;
                                 },
                             .create_options = fields<VmdkCreate>,
                             .create_format = create}};

}  // namespace
}  // namespace vmm::block
