// Making an image, and the driver's entry in the registry. Source: "The QCOW2 image format", "Header".
#include "block/format/qcow2_create.h"
#include "block/format/backing.h"
#include "block/format/qcow2.h"

namespace vmm::block {
namespace qcow2 {

Result<Header> header_of(const CreateFields& o, u64 length) {
  Header h;
  if (o.compat) {
    if (*o.compat == "0.10" || *o.compat == "v2")
      h.version = 2;
    else if (*o.compat != "1.1" && *o.compat != "v3")
      return fail("Unknown compatibility level {}", *o.compat);
  }
  const u64 cluster = o.cluster_size.value_or(Bytes64{65536});
  if (!std::has_single_bit(cluster) || cluster < 512 || cluster > 2 * MiB)
    return fail("Cluster size must be a power of two between 512 and 2048k");
  h.cluster_bits = static_cast<u32>(std::countr_zero(cluster));
  h.virtual_bytes = length;
  if (length % 512) return fail("Image size must be a multiple of 512 bytes");
  const u32 bits = o.refcount_bits.value_or(16);
  if (!std::has_single_bit(bits) || bits > 64) return fail("Refcount width must be a power of two and may not exceed 64 bits");
  h.refcount_order = static_cast<u32>(std::countr_zero(bits));
  if (h.version == 2 && bits != 16)
    return fail("Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)");
  if (o.lazy_refcounts.value_or(false)) {
    if (h.version == 2) return fail("Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)");
    h.compatible |= feature::lazy_refcounts;
  }
  if (o.extended_l2.value_or(false)) {
    if (h.version == 2)
      return fail("Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)");
    if (cluster < 16 * KiB) return fail("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
    h.incompatible |= feature::extended_l2;
  }
  if (o.compression_type && *o.compression_type != "zlib") {
    if (*o.compression_type != "zstd") return fail("Parameter 'compression_type' does not accept value '{}'", *o.compression_type);
    if (h.version == 2)
      return fail("Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)");
    h.compression = Compression::zstd;
    h.incompatible |= feature::compression_type;
  }
  const Preallocation preallocation = o.preallocation.value_or(Preallocation::off);
  if (o.backing_file && !o.backing_file->empty()) {
    h.backing_file = *o.backing_file;
    if (h.backing_file.size() > max_name) return fail("Backing file name too long");
    if (preallocation != Preallocation::off && !o.extended_l2.value_or(false))
      return fail("Backing file and preallocation can only be used at the same time if extended_l2 is enabled");
  }
  if (o.backing_fmt && !o.backing_fmt->empty()) {
    if (h.backing_file.empty()) return fail("Backing format cannot be used without backing file");
    h.backing_format = *o.backing_fmt;
  }
  if (o.data_file_raw.value_or(false) && !o.data_file) return fail("data-file-raw requires data-file");
  if (o.data_file) {
    if (h.version == 2)
      return fail("External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)");
    h.data_file = *o.data_file;
    h.incompatible |= feature::data_file;
    if (o.data_file_raw.value_or(false)) {
      if (!h.backing_file.empty()) return fail("Backing file and data-file-raw cannot be used at the same time");
      h.autoclear |= feature::raw_data_file;
    }
  }
  const Geometry g = h.geometry();
  if (length > g.max_virtual_bytes())
    return fail("Image size is too big: {} bytes, at most {} with clusters of {} bytes", length, g.max_virtual_bytes(), cluster);
  return h;
}

}  // namespace qcow2

namespace {
using namespace qcow2;

// Header, refcount table, refcount blocks and an empty L1 table, in this order.
Task<> create(Edge& file, CreateOptions given) {
  CreateFields o;
  if (auto ok = assign_fields(&o, fields<CreateFields>, given.options); !ok) co_return ok;
  Result<Header> made = header_of(o, given.length_bytes);
  if (!made) co_return std::unexpected(std::move(made).error());
  Header h = std::move(*made);
  const Geometry g = h.geometry();
  const u64 cluster = g.cluster_bytes();
  h.l1_size = static_cast<u32>(g.l1_entries(h.virtual_bytes));
  const u64 l1_clusters = std::max<u64>(g.clusters(u64{h.l1_size} * 8), 1);
  // As many blocks as count themselves, the table, the header and the L1 table.
  u64 blocks = 1, table_clusters = 1;
  for (;;) {
    const u64 all = 1 + table_clusters + blocks + l1_clusters;
    const u64 need = all / g.refcounts_per_block() + (all % g.refcounts_per_block() != 0);
    const u64 need_table = g.clusters(need * 8);
    if (need <= blocks && need_table <= table_clusters) break;
    blocks = std::max(blocks, need), table_clusters = std::max(table_clusters, need_table);
  }
  h.refcount_table_offset = cluster;
  h.refcount_table_clusters = static_cast<u32>(table_clusters);
  const u64 first_block = 1 + table_clusters;
  h.l1_offset = (first_block + blocks) << g.cluster_bits;
  const u64 used = 1 + table_clusters + blocks + l1_clusters;
  std::vector<u8> counts(blocks << g.cluster_bits);
  for (u64 i = 0; i < used; i++) {
    const u64 block = i / g.refcounts_per_block();
    set_refcount(std::span{counts}.subspan(block << g.cluster_bits, cluster), i % g.refcounts_per_block(), g.refcount_order, 1);
  }
  std::vector<u8> table(table_clusters << g.cluster_bits);
  for (u64 i = 0; i < blocks; i++) store_be(&table[i * 8], (first_block + i) << g.cluster_bits);
  Result<std::vector<u8>> head = build_header(h);
  if (!head) co_return std::unexpected(std::move(head).error());
  if (file.length_bytes()) co_await file.truncate(0);
  co_await file.truncate(used << g.cluster_bits);  // the L1 table reads as zeros
  co_await file.write(h.refcount_table_offset, IoVector{std::span{table}});
  co_await file.write(first_block << g.cluster_bits, IoVector{std::span{counts}});
  co_await file.write(0, IoVector{std::span{*head}});

  EventLoop& loop = file.node().loop();
  if (!h.data_file.empty())
    co_await create_image(loop, resolve_name(file.node().filename(), h.data_file), "raw", {.length_bytes = h.virtual_bytes});
  const Preallocation mode = o.preallocation.value_or(Preallocation::off);
  const bool raw = h.autoclear & feature::raw_data_file;
  if ((mode == Preallocation::off && !raw) || !h.virtual_bytes) co_return Result<>{};
  // The driver itself fills in the rest: the disk grows from nothing.
  if (auto ok = file.set_permissions(permit_read, permit_all); !ok) co_return ok;
  Value tree = Value::object();
  tree.set("driver", Value{"qcow2"});
  tree.set("file", Value{file.node().node_name()});
  if (h.backing_file.empty()) tree.set("backing", Value{});
  NodeRef node = co_await open_node(loop, std::move(tree));
  Result<> done =
      co_await attempt(std::static_pointer_cast<Qcow2>(node)->fill_new(mode == Preallocation::off ? Preallocation::metadata : mode));
  const Result<> closed = co_await attempt(release(std::move(node)));
  if (done && !closed) done = closed;
  if (auto ok = file.set_permissions(permit_all, permit_read); !ok && done) done = ok;
  co_return done;
}

constexpr std::string_view children[] = {"file", "backing", "data-file"};
RegisteredDriver registered{{.name = "qcow2",
                             .doc = "QEMU's copy-on-write format, versions 2 and 3.",
                             .kind = BlockDriver::Kind::format,
                             .options = Qcow2::option_fields,
                             .children = children,
                             .make = make_node<Qcow2>,
                             .probe = [](std::span<const u8> head, std::string_view) { return is_qcow2(head) ? 100 : 0; },
                             .create_options = fields<CreateFields>,
                             .create_format = create}};

}  // namespace

Task<> Qcow2::fill_new(Preallocation mode) {
  co_await prepare_write();
  if (external() && mode != Preallocation::metadata) co_await data_file().truncate(header_.virtual_bytes, mode);
  co_return co_await preallocate(0, header_.virtual_bytes, mode);
}

}  // namespace vmm::block
