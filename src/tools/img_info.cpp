// vmm img info, check, map, measure: what an image is. Output as Debian's qemu-img 7.2 prints it; members of JSON objects that later
// versions have (children, compressed) are there, too.
#include <cstdio>
#include <ctime>

#include "block/format/backing.h"
#include "block/format/qcow2_create.h"
#include "src/tools/img.h"
#include "src/tools/img_tables.h"

namespace vmm::tools::img {
namespace {

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

bool wants_json(const Arguments& args, Result<>& bad) {
  const std::string output = args.get("output", "human");
  if (output != "human" && output != "json") bad = fail("--output must be used with human or json as argument.");
  return output == "json";
}

// --- info -----------------------------------------------------------------------------------------------------------------------------

Result<Value> describe(Image& image) {
  block::BlockNode& node = image.node();
  Value v = Value::object();
  if (auto* q = image.qcow2(); q && q->header().bitmaps) (void)wait(q->bitmaps());
  if (Value snapshots = node.snapshots_info(); !snapshots.is_null()) v.set("snapshots", std::move(snapshots));
  v.set("virtual-size", Value{node.length_bytes()});
  v.set("filename", Value{image.name()});
  if (node.cluster_bytes()) v.set("cluster-size", Value{node.cluster_bytes()});
  v.set("format", Value{node.driver().name});
  // The image file alone: an external data file has a size of its own.
  const block::Edge* own = node.child("file");
  v.set("actual-size", Value{TRY(wait(own ? own->node().allocated_bytes() : node.allocated_bytes()))});
  if (Value specific = node.specific_info(); !specific.is_null()) v.set("format-specific", std::move(specific));
  const std::string backing = node.backing_filename();
  if (!backing.empty()) {
    v.set("full-backing-filename", Value{block::resolve_name(image.name(), backing)});
    v.set("backing-filename", Value{backing});
    if (auto* q = image.qcow2(); q && !q->header().backing_format.empty())
      v.set("backing-filename-format", Value{q->header().backing_format});
  }
  v.set("dirty-flag", Value{image.qcow2() && image.qcow2()->marked_dirty()});
  Value children = Value::list();
  for (const auto& child : node.children()) {
    if (child->role() != block::Role::file && child->role() != block::Role::data_file) continue;
    Value info = Value::object();
    info.set("virtual-size", Value{child->node().length_bytes()});
    info.set("filename", Value{child->node().filename()});
    info.set("format", Value{child->node().driver().name});
    info.set("actual-size", Value{TRY(wait(child->node().allocated_bytes()))});
    info.set("dirty-flag", Value{false});
    children.append(Value{Value::Members{{"name", Value{child->name()}}, {"info", std::move(info)}}});
  }
  if (!children.items().empty()) v.set("children", std::move(children));
  return v;
}

std::string with_spaces(std::string text) {
  std::ranges::replace(text, '-', ' ');
  return text;
}
std::string scalar(const Value& v) {
  if (v.is_bool()) return v.get_bool() ? "true" : "false";
  if (v.is_string()) return v.get_string();
  return to_json(v);
}
void print_tree(const Value& v, usize indent) {
  const std::string space(indent, ' ');
  const auto one = [&](const std::string& name, const Value& value) {
    if (value.is_object() || value.is_list()) {
      print(format("{}{}:\n", space, name));
      print_tree(value, indent + 4);
    } else {
      print(format("{}{}: {}\n", space, name, scalar(value)));
    }
  };
  if (v.is_object())
    for (const auto& [name, value] : v.members()) one(with_spaces(name), value);
  if (v.is_list())
    for (usize i = 0; i < v.items().size(); i++) one(format("[{}]", i), v.items()[i]);
}

u64 number(const Value& v, std::string_view name) {
  const Value* member = v.find(name);
  return member ? member->as_u64(name).value_or(0) : 0;
}

}  // namespace

std::string snapshot_table(const Value& snapshots) {
  std::string text = format("{:<9} {:<16} {:>8} {:>19} {:>12} {:>10}\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
  for (const Value& s : snapshots.items()) {
    const std::time_t seconds = static_cast<std::time_t>(number(s, "date-sec"));
    std::tm local{};
    ::localtime_r(&seconds, &local);
    char date[64];
    std::strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &local);
    const u64 clock = number(s, "vm-clock-sec");
    const std::string time =
        format("{:02}:{:02}:{:02}.{:03}", clock / 3600, clock / 60 % 60, clock % 60, number(s, "vm-clock-nsec") / 1'000'000);
    const Value* icount = s.find("icount");
    text += format("{:<9} {:<16} {:>8} {:>19} {:>12} {:>10}\n", s.find("id")->get_string(), s.find("name")->get_string(),
                   size_text(number(s, "vm-state-size")), date, time, icount ? to_json(*icount) : "");
  }
  return text;
}

namespace {

void print_info(const Value& v) {
  const auto text = [&](std::string_view name) {
    const Value* member = v.find(name);
    return member && member->is_string() ? member->get_string() : std::string{};
  };
  print(format("image: {}\nfile format: {}\n", text("filename"), text("format")));
  print(format("virtual size: {} ({} bytes)\n", size_text(number(v, "virtual-size")), number(v, "virtual-size")));
  print(format("disk size: {}\n", size_text(number(v, "actual-size"))));
  if (v.find("cluster-size")) print(format("cluster_size: {}\n", number(v, "cluster-size")));
  if (v.find("dirty-flag")->get_bool()) print("cleanly shut down: no\n");
  if (const std::string backing = text("backing-filename"); !backing.empty()) {
    const std::string full = text("full-backing-filename");
    print(format("backing file: {}{}\n", backing, full == backing ? "" : format(" (actual path: {})", full)));
    if (const std::string f = text("backing-filename-format"); !f.empty()) print(format("backing file format: {}\n", f));
  }
  if (const Value* snapshots = v.find("snapshots")) print("Snapshot list:\n" + snapshot_table(*snapshots));
  if (const Value* specific = v.find("format-specific"))
    if (const Value* data = specific->find("data")) {
      print("Format specific information:\n");
      print_tree(*data, 4);
    }
}

Result<int> run_info(const Arguments& args) {
  Result<> bad;
  const bool json = wants_json(args, bad);
  TRY(bad);
  if (args.words.size() != 1) return std::unexpected(Error{"Expecting one image file name"}.with_hint("usage"));
  const bool chain = args.has("backing-chain");
  std::string name = args.words[0];
  OpenOptions o = open_options(args);
  o.no_backing = true;
  Value all = Value::list();
  std::vector<std::string> seen;
  for (;;) {
    if (std::ranges::find(seen, name) != seen.end()) return fail("Backing file '{}' creates an infinite loop.", name);
    seen.push_back(name);
    Image image = TRY(Image::open(name, o));
    Value info = TRY(describe(image));
    std::string next, next_format;
    if (const Value* full = info.find("full-backing-filename")) next = full->get_string();
    if (const Value* f = info.find("backing-filename-format")) next_format = f->get_string();
    if (!json) {
      if (seen.size() > 1) print("\n");
      print_info(info);
    }
    all.append(std::move(info));
    TRY(image.close());
    if (!chain || next.empty() || seen.size() > 200) break;
    name = next, o.format = next_format, o.image_options = false;
  }
  if (json) print(to_json(chain ? all : all.items()[0], true) + "\n");
  return 0;
}

// --- check ----------------------------------------------------------------------------------------------------------------------------

Result<int> run_check(const Arguments& args) {
  Result<> bad;
  const bool json = wants_json(args, bad);
  TRY(bad);
  if (args.words.size() != 1) return std::unexpected(Error{"Expecting one image file name"}.with_hint("usage"));
  using block::qcow2::Repair;
  Repair repair = Repair::none;
  if (args.has("repair")) {
    const std::string how = args.get("repair");
    if (how == "leaks")
      repair = Repair::leaks;
    else if (how == "all")
      repair = Repair::all;
    else
      return std::unexpected(Error{"-r must be used with 'leaks' or 'all'"}.with_hint("usage"));
  }
  const bool quiet = args.has("quiet");
  OpenOptions o = open_options(args);
  o.inspect = true;
  o.writes = o.resizes = repair != Repair::none;
  Image image = TRY(Image::open(args.words[0], o));
  block::Qcow2* q = image.qcow2();
  if (!q) {
    if (!quiet || json) report_error("This image format does not support checks");
    return 63;
  }
  const auto say = [](const block::qcow2::CheckResult& r) {
    for (const auto& m : r.messages) std::fprintf(stderr, "%s\n", m.c_str());
    if (r.messages_dropped) std::fprintf(stderr, "… and %llu more\n", static_cast<unsigned long long>(r.messages_dropped));
  };
  auto checked = wait(q->check(repair));
  if (!checked) return fail("Check failed: {}", checked.error().message);
  block::qcow2::CheckResult r = std::move(*checked);
  say(r);
  if (r.leaks_fixed || r.corruptions_fixed) {
    const u64 leaks = r.leaks_fixed, corruptions = r.corruptions_fixed;
    if (!quiet && !json)
      print(
          format("The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\nDouble checking "
                 "the fixed image now...\n",
                 leaks, corruptions));
    r = TRY(wait(q->check(Repair::none)));
    say(r);
    r.leaks_fixed = leaks, r.corruptions_fixed = corruptions;
  }
  if (auto closed = image.close(); !closed) {
    report_error(closed.error());
    r.errors++;
  }
  if (json) {
    Value v = Value::object();
    const auto set = [&](std::string_view name, u64 value) {
      if (value) v.set(std::string{name}, Value{value});
    };
    set("image-end-offset", r.image_end);
    set("total-clusters", r.total_clusters);
    v.set("check-errors", Value{r.errors});
    set("corruptions", r.corruptions);
    set("corruptions-fixed", r.corruptions_fixed);
    set("leaks", r.leaks);
    set("leaks-fixed", r.leaks_fixed);
    set("allocated-clusters", r.allocated_clusters);
    set("fragmented-clusters", r.fragmented_clusters);
    set("compressed-clusters", r.compressed_clusters);
    v.set("filename", Value{args.words[0]});
    v.set("format", Value{"qcow2"});
    print(to_json(v, true) + "\n");
  } else if (!quiet) {
    if (!r.errors && !r.corruptions && !r.leaks) print("No errors were found on the image.\n");
    if (r.corruptions)
      print(format("\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n",
                   r.corruptions));
    if (r.leaks)
      print(format("\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n", r.leaks));
    if (r.errors) print(format("\n{} internal errors have occurred during the check.\n", r.errors));
    if (r.total_clusters && r.allocated_clusters)
      print(format("{}/{} = {:.2f}% allocated, {:.2f}% fragmented, {:.2f}% compressed clusters\n", r.allocated_clusters, r.total_clusters,
                   static_cast<double>(r.allocated_clusters) * 100 / static_cast<double>(r.total_clusters),
                   static_cast<double>(r.fragmented_clusters) * 100 / static_cast<double>(r.allocated_clusters),
                   static_cast<double>(r.compressed_clusters) * 100 / static_cast<double>(r.allocated_clusters)));
    if (r.image_end) print(format("Image end offset: {}\n", r.image_end));
  }
  if (r.errors) return 1;
  if (r.corruptions) return 2;
  return r.leaks ? 3 : 0;
}

// --- map ------------------------------------------------------------------------------------------------------------------------------

Result<int> run_map(const Arguments& args) {
  Result<> bad;
  const bool json = wants_json(args, bad);
  TRY(bad);
  if (args.words.size() != 1) return std::unexpected(Error{"Expecting one image file name"}.with_hint("usage"));
  Image image = TRY(Image::open(args.words[0], open_options(args)));
  u64 at = 0, end = image.length();
  if (args.has("start-offset")) at = TRY(parse_size(args.get("start-offset")));
  if (args.has("max-length")) end = std::min(end, at + TRY(parse_size(args.get("max-length"))));
  if (!json) print(format("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File"));
  struct Line {
    u64 start = 0;
    Status s;
  };
  bool first = true;
  Result<> trouble;
  const auto put = [&](const Line& l) {
    const Status& s = l.s;
    if (json) {
      print(format("{}{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \"compressed\": {}",
                   first ? "[" : ",\n", l.start, s.length, s.depth, s.present, s.kind == Status::Kind::zero,
                   s.kind == Status::Kind::data || s.hole, s.compressed));
      if (s.has_offset) print(format(", \"offset\": {}", s.offset));
      print("}");
    } else if (s.kind == Status::Kind::data) {
      if (!s.has_offset) {
        trouble = fail("File contains external, encrypted or compressed clusters.");
        return;
      }
      const auto hex = [](u64 v) { return v ? format("{:#x}", v) : std::string{"0"}; };
      print(format("{:<16}{:<16}{:<16}{}\n", hex(l.start), hex(s.length), hex(s.offset), s.node->filename()));
    }
    first = false;
  };
  std::optional<Line> held;
  while (at < end && trouble) {
    Status s = TRY(wait(status_at(image.node(), at, end - at)));
    const bool joins = held && held->s.kind == s.kind && held->s.hole == s.hole && held->s.depth == s.depth &&
                       held->s.present == s.present && held->s.compressed == s.compressed && held->s.has_offset == s.has_offset &&
                       (!s.has_offset || held->s.offset + held->s.length == s.offset) &&
                       (json || s.kind == Status::Kind::zero || held->s.node == s.node);
    if (joins) {
      held->s.length += s.length;
    } else {
      if (held) put(*held);
      held = Line{at, s};
    }
    at += s.length;
  }
  if (held && trouble) put(*held);
  if (json) print(first ? "[]\n" : "]\n");
  TRY(trouble);
  return 0;
}

// --- measure --------------------------------------------------------------------------------------------------------------------------

// Bytes of metadata that a qcow2 image of this size has when all of it is allocated.
u64 qcow2_metadata(const block::qcow2::Header& h) {
  const block::qcow2::Geometry g = h.geometry();
  const u64 cluster = g.cluster_bytes();
  const u64 data = g.clusters(h.virtual_bytes);
  const u64 l2 = g.l1_entries(h.virtual_bytes), l1 = g.clusters(l2 * 8);
  u64 blocks = 0, table = 0;
  for (;;) {
    const u64 all = data + 1 + l2 + l1 + blocks + table;
    const u64 need = (all + g.refcounts_per_block() - 1) / g.refcounts_per_block();
    const u64 need_table = g.clusters(need * 8);
    if (need == blocks && need_table == table) break;
    blocks = need, table = need_table;
  }
  return (1 + l2 + l1 + blocks + table) * cluster;
}

Result<int> run_measure(const Arguments& args) {
  Result<> bad;
  const bool json = wants_json(args, bad);
  TRY(bad);
  const std::string target = args.get("O", "raw");
  if (args.words.size() > 1) return std::unexpected(Error{"At most one filename argument is allowed."}.with_hint("usage"));
  if (args.has("size") == !args.words.empty())
    return std::unexpected(Error{args.words.empty() ? "Either --size N or one filename must be specified."
                                                    : "--size N cannot be used together with a filename."}
                               .with_hint("usage"));
  const Value options = TRY(parse_options(args.all("o")));
  u64 length = 0, allocated = 0;
  u64 bitmaps = 0;
  bool any_bitmaps = false;
  const bool is_qcow2 = target == "qcow2";
  if (!is_qcow2 && target != "raw") return fail("Format driver '{}' does not support size measurement", target);
  block::qcow2::Header h;
  const auto make_header = [&]() -> Result<> {
    if (!is_qcow2) return {};
    block::qcow2::CreateFields f;
    TRY(assign_fields(&f, fields<block::qcow2::CreateFields>, options));
    h = TRY(block::qcow2::header_of(f, align_up(length, 512)));
    return {};
  };
  if (args.has("size")) {
    length = TRY(parse_size(args.get("size")));
    TRY(make_header());
    const Value* mode = options.find("preallocation");
    if (mode && mode->is_string() && (mode->get_string() == "falloc" || mode->get_string() == "full"))
      allocated = align_up(length, u64{1} << h.cluster_bits);
    if (!is_qcow2) allocated = length;
  } else {
    OpenOptions o = open_options(args);
    o.snapshot = args.get("l");
    if (o.snapshot.starts_with("snapshot.name=")) o.snapshot.erase(0, 14);
    Image image = TRY(Image::open(args.words[0], o));
    length = image.length();
    TRY(make_header());
    const u64 cluster = is_qcow2 ? u64{1} << h.cluster_bits : 1;
    if (!is_qcow2) {
      allocated = length;
    } else {
      u64 counted_to = 0;
      for (u64 at = 0; at < length;) {
        const Status s = TRY(wait(status_at(image.node(), at, length - at)));
        if (s.kind == Status::Kind::data) {
          const u64 from = std::max(align_down(at, cluster), counted_to), to = align_up(at + s.length, cluster);
          if (to > from) allocated += to - from, counted_to = to;
        }
        at += s.length;
      }
      if (auto* q = image.qcow2(); q && q->header().version >= 3) {
        any_bitmaps = true;
        for (const auto& b : TRY(wait(q->bitmaps()))) {
          const auto g = h.geometry();
          const u64 granules = length / b.granularity + (length % b.granularity != 0);
          const u64 clusters = g.clusters((granules + 7) / 8);
          bitmaps += (clusters + g.clusters(clusters * 8)) * cluster;
        }
        if (bitmaps) bitmaps = align_up(bitmaps + 64, cluster);
      }
    }
  }
  const u64 metadata = is_qcow2 ? qcow2_metadata(h) : 0;
  const u64 full = is_qcow2 ? metadata + align_up(length, u64{1} << h.cluster_bits) : length;
  const u64 required = is_qcow2 ? metadata + allocated : length;
  if (json) {
    Value v = Value::object();
    if (any_bitmaps) v.set("bitmaps", Value{bitmaps});
    v.set("required", Value{required});
    v.set("fully-allocated", Value{full});
    print(to_json(v, true) + "\n");
  } else {
    print(format("required size: {}\nfully allocated size: {}\n", required, full));
    if (any_bitmaps) print(format("bitmaps size: {}\n", bitmaps));
  }
  return 0;
}

constexpr OptionSpec info_options[] = {{'f', "", true},      {'U', "force-share"}, {0, "output", true},
                                       {0, "backing-chain"}, {0, "object", true},  {0, "image-opts"}};
constexpr OptionSpec check_options[] = {{'f', "", true}, {'U', "force-share"}, {0, "output", true}, {'r', "repair", true},
                                        {'T', "", true}, {'q', "quiet"},       {0, "object", true}, {0, "image-opts"}};
constexpr OptionSpec map_options[] = {{'f', "", true},   {'U', "force-share"},        {0, "output", true},      {0, "object", true},
                                      {0, "image-opts"}, {'s', "start-offset", true}, {'l', "max-length", true}};
constexpr OptionSpec measure_options[] = {{'f', "", true},   {'O', "", true},      {'o', "", true},
                                          {'l', "", true},   {'U', "force-share"}, {0, "output", true},
                                          {0, "size", true}, {0, "object", true},  {0, "image-opts"}};

}  // namespace

const Command info_command{"info", "[--object OBJECTDEF] [--image-opts] [-f FMT] [--output=OFMT] [--backing-chain] [-U] FILENAME",
                           info_options, run_info};
const Command check_command{
    "check", "[--object OBJECTDEF] [--image-opts] [-q] [-f FMT] [--output=OFMT] [-r [leaks | all]] [-T SRC_CACHE] [-U] FILENAME",
    check_options, run_check};
const Command map_command{
    "map", "[--object OBJECTDEF] [--image-opts] [-f FMT] [--start-offset=OFFSET] [--max-length=LEN] [--output=OFMT] [-U] FILENAME",
    map_options, run_map};
const Command measure_command{
    "measure",
    "[--output=OFMT] [-O OUTPUT_FMT] [-o OPTIONS] [--size N | [--object OBJECTDEF] [--image-opts] [-f FMT] [-l SNAPSHOT_PARAM] FILENAME]",
    measure_options, run_measure};

}  // namespace vmm::tools::img
