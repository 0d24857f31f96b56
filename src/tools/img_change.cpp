// vmm img create, resize, snapshot, amend, bitmap: making and changing one image.
#include <cstdio>

#include "block/format/backing.h"
#include "src/tools/img.h"
#include "src/tools/img_tables.h"

namespace vmm::tools::img {
namespace {

void say(const Arguments& args, const std::string& text) {
  if (!args.has("quiet")) std::fwrite(text.data(), 1, text.size(), stdout);
}
std::unexpected<Error> usage(std::string text) { return std::unexpected(Error{std::move(text)}.with_hint("usage")); }

// --- create ---------------------------------------------------------------------------------------------------------------------------

std::string kind_of(const TypeDescription& t) {
  if (t.name == "size") return "size";
  switch (t.kind) {
    case TypeDescription::Kind::boolean: return "bool (on/off)";
    case TypeDescription::Kind::integer: return "num";
    default: return "str";
  }
}

Result<int> print_create_options(const std::string& format_name, const std::string& filename) {
  const block::BlockDriver* driver = block::find_driver(format_name);
  if (!driver) return fail("Unknown file format '{}'", format_name);
  std::vector<std::pair<std::string, std::string>> lines;
  const auto collect = [&](std::span<const Field> table) {
    for (const Field& f : table)
      if (std::ranges::find(lines, std::string{f.name}, [](const auto& l) { return l.first.substr(0, l.first.find('=')); }) == lines.end())
        lines.emplace_back(format("{}=<{}>", f.name, kind_of(*f.type)), std::string{f.doc});
  };
  collect(driver->create_options);
  if (!filename.empty())
    if (const block::BlockDriver* file = block::find_driver("file")) collect(file->create_options);
  lines.emplace_back("size=<size>", "Virtual disk size");
  std::ranges::sort(lines);
  std::string text = filename.empty() ? format("Supported {} options:\n", format_name) : "Supported options:\n";
  for (const auto& [name, doc] : lines) text += format("  {:<22} - {}\n", name, doc);
  if (filename.empty())
    text += "\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace

// The line that says what was made: the format's options in the order that scripts have come to know.
std::string created_line(const std::string& name, const std::string& format_name, u64 size, const Value& options) {
  std::string text = format("Formatting '{}', fmt={}", name, format_name);
  const auto value = [&](std::string_view key, std::string_view otherwise) {
    const Value* v = options.find(key);
    if (v)
      text += format(" {}={}", key, v->is_string() ? v->get_string() : to_json(*v));
    else if (!otherwise.empty())
      text += format(" {}={}", key, otherwise);
  };
  if (format_name != "qcow2") {
    text += format(" size={}", size);
    for (const auto& [key, v] : options.members()) value(key, "");
    return text + "\n";
  }
  if (const Value* v = options.find("cluster_size"))
    text += format(" cluster_size={}", codec_detail::parse_size(*v, "cluster_size", {}).value_or(0));
  else
    text += " cluster_size=65536";
  value("extended_l2", "off"), value("preallocation", ""), value("compression_type", "zlib");
  text += format(" size={}", size);
  for (const char* key : {"compat", "backing_file", "backing_fmt", "data_file", "data_file_raw"}) value(key, "");
  value("lazy_refcounts", "off"), value("refcount_bits", "16");
  return text + "\n";
}

namespace {

Result<int> run_create(const Arguments& args) {
  const std::string format_name = args.get("f", "raw");
  bool help = false;
  Value options = TRY(parse_options(args.all("o"), &help));
  if (help) return print_create_options(format_name, args.words.empty() ? "" : args.words[0]);
  if (args.words.empty()) return usage("Expecting image file name");
  if (args.words.size() > 2) return usage(format("Unexpected argument: {}", args.words[2]));
  const std::string& name = args.words[0];
  const auto here = [&](Error e) -> Result<int> {
    e.message = format("{}: {}", name, e.message);
    return std::unexpected(std::move(e));
  };
  const block::BlockDriver* driver = block::find_driver(format_name);
  if (!driver || (!driver->create_format && !driver->create_file && format_name != "raw"))
    return here(Error{format("Unknown file format '{}'", format_name)});
  if (args.has("b")) options.set("backing_file", Value{args.get("b")});
  if (args.has("F")) options.set("backing_fmt", Value{args.get("F")});
  const bool takes_backing = find_field(driver->create_options, "backing_file");
  if (args.has("b") && !takes_backing) return here(Error{format("Backing file not supported for file format '{}'", format_name)});
  if (args.has("F") && !find_field(driver->create_options, "backing_fmt") && takes_backing) options.erase("backing_fmt");
  const block::BlockDriver* file = block::find_driver("file");
  for (const auto& [key, value] : options.members())
    if (key != "size" && !find_field(driver->create_options, key) && !(file && find_field(file->create_options, key)))
      return here(Error{format("Invalid parameter '{}'", key)});
  std::optional<u64> size;
  if (args.words.size() == 2) size = TRY(parse_size(args.words[1]));
  if (const Value* v = options.find("size"); v && !size) size = TRY(parse_size(v->get_string()));
  options.erase("size");
  const Value* backing = options.find("backing_file");
  if (backing && !backing->get_string().empty()) {
    const std::string backing_name = backing->get_string();
    const Value* backing_format = options.find("backing_fmt");
    if (backing_name == name) return here(Error{"Error: Trying to create an image with the same filename as the backing file"});
    if (backing_format && !block::find_driver(backing_format->get_string()))
      return here(Error{format("Unknown backing file format '{}'", backing_format->get_string())});
    if (!args.has("u")) {
      OpenOptions o;
      if (backing_format) o.format = backing_format->get_string();
      auto base = Image::open(block::resolve_name(name, backing_name), o);
      if (!base && size && !backing_format) return here(std::move(base).error());
      if (!base) return here(std::move(base).error().with_hint("Could not open backing image."));
      if (!backing_format && find_field(driver->create_options, "backing_fmt")) {
        const std::string found{base->node().driver().name};
        return here(Error{"Backing file specified without backing format"}.with_hint(format("Detected format of {}.", found)));
      }
      if (!size) size = base->length();
    } else if (!backing_format && find_field(driver->create_options, "backing_fmt")) {
      return here(Error{"Backing file specified without backing format"});
    }
  }
  if (!size) return here(Error{"Image creation needs a size parameter"});
  const u64 bytes = align_up(*size, 512);
  say(args, created_line(name, format_name, bytes, options));
  std::fflush(stdout);
  block::CreateOptions how{.length_bytes = bytes, .options = std::move(options)};
  if (auto made = wait(block::create_image(loop(), name, format_name == "raw" ? "" : format_name, std::move(how))); !made)
    return here(std::move(made).error());
  return 0;
}

// --- resize ---------------------------------------------------------------------------------------------------------------------------

Result<int> run_resize(const Arguments& args) {
  if (args.words.size() != 2) return usage("Expecting image file name and size");
  std::string text = args.words[1];
  int relative = 0;
  if (text.starts_with('+')) relative = 1;
  if (text.starts_with('-')) relative = -1;
  if (relative) text.erase(0, 1);
  const auto amount = parse_size(text);
  if (!amount) return fail("Invalid image size specified! (Parameter 'size' expects a non-negative number below 2^64)");
  block::Preallocation mode = block::Preallocation::off;
  if (args.has("preallocation")) {
    const auto ok = Codec<block::Preallocation>::from_value(mode, Value{args.get("preallocation")}, "preallocation", {});
    if (!ok) return fail("Invalid preallocation mode '{}'", args.get("preallocation"));
  }
  OpenOptions o = open_options(args);
  o.writes = o.resizes = true;
  Image image = TRY(Image::open(args.words[0], o));
  const u64 old = image.length();
  if (relative < 0 && *amount > old) return fail("New image size must be positive");
  if (relative > 0 && *amount > u64{INT64_MAX} - old) return fail("Image size must be less than 8 EiB!");
  const u64 wanted = relative > 0 ? old + *amount : relative < 0 ? old - *amount : *amount;
  if (!wanted) return fail("New image size must be positive");
  if (wanted <= old && mode != block::Preallocation::off) return fail("Preallocation can only be used for growing images");
  if (wanted < old && !args.has("shrink")) {
    Error e{"Use the --shrink option to perform a shrink operation."};
    report_error(e);
    report_warning(
        "Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is "
        "no important data there.");
    return 1;
  }
  TRY(wait(image.edge().truncate(image.qcow2() ? align_up(wanted, 512) : wanted, mode)));
  TRY(image.close());
  say(args, "Image resized.\n");
  return 0;
}

// --- snapshot -------------------------------------------------------------------------------------------------------------------------

Result<int> run_snapshot(const Arguments& args) {
  if (args.words.size() != 1) return usage("Expecting one image file name");
  const int actions = args.has("l") + args.has("c") + args.has("a") + args.has("d");
  if (actions > 1) return usage("Cannot mix '-l', '-a', '-c', '-d'");
  OpenOptions o = open_options(args);
  o.writes = actions && !args.has("l"), o.resizes = o.writes;
  Image image = TRY(Image::open(args.words[0], o));
  block::Qcow2* q = image.qcow2();
  const auto failed = [&](std::string_view what, const std::string& name, const Error& e) -> Result<int> {
    return fail("Could not {} snapshot '{}': {}", what, name, e.message);
  };
  if (!o.writes) {
    const Value list = image.node().snapshots_info();
    if (!list.is_null()) say({}, "Snapshot list:\n" + snapshot_table(list));
    return 0;
  }
  const std::string name = args.has("c") ? args.get("c") : args.has("a") ? args.get("a") : args.get("d");
  if (!q) return failed(args.has("c") ? "create" : args.has("a") ? "apply" : "delete", name, Error{"Operation not supported"});
  if (args.has("c")) {
    block::qcow2::Snapshot s;
    s.name = name;
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    s.seconds = static_cast<u32>(now.tv_sec), s.nanoseconds = static_cast<u32>(now.tv_nsec);
    s.icount = 0;
    if (auto done = wait(q->create_snapshot(std::move(s))); !done) return failed("create", name, done.error());
  } else if (args.has("a")) {
    const bool known = std::ranges::any_of(q->snapshots(), [&](const auto& s) { return s.id == name || s.name == name; });
    if (!known) return failed("apply", name, Error{"Failed to load snapshot: No such file or directory"});
    if (auto done = wait(q->apply_snapshot(name)); !done) return failed("apply", name, done.error());
  } else {
    const bool known = std::ranges::any_of(q->snapshots(), [&](const auto& s) { return s.id == name || s.name == name; });
    if (!known) return failed("delete", name, Error{"snapshot not found"});
    if (auto done = wait(q->delete_snapshot(name)); !done) return failed("delete", name, done.error());
  }
  TRY(image.close());
  return 0;
}

// --- amend ----------------------------------------------------------------------------------------------------------------------------

Result<int> run_amend(const Arguments& args) {
  bool help = false;
  Value options = TRY(parse_options(args.all("o"), &help));
  if (help) {
    say({},
        "Amend options for 'qcow2':\n  backing_file=<str>     - File name of a base image\n  backing_fmt=<str>      - Image format of the "
        "base image\n"
        "  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])\n  data_file=<str>        - File name of an external data "
        "file\n"
        "  data_file_raw=<bool (on/off)> - The external data file must stay valid as a raw image\n  lazy_refcounts=<bool (on/off)> - "
        "Postpone refcount updates\n"
        "  size=<size>            - Virtual disk size\n");
    return 0;
  }
  if (!args.has("o")) return usage("Must specify options (-o)");
  if (args.words.size() != 1) return usage("Expecting one image file name");
  OpenOptions o = open_options(args);
  o.writes = o.resizes = true;
  Image image = TRY(Image::open(args.words[0], o));
  block::Qcow2* q = image.qcow2();
  if (!q) return fail("Format driver '{}' does not support option amendment", image.node().driver().name);
  for (const auto& [name, value] : options.members()) {
    constexpr std::string_view amendable[] = {"backing_file",  "backing_fmt",    "compat", "data_file",
                                              "data_file_raw", "lazy_refcounts", "size"};
    if (std::ranges::find(amendable, name) != std::end(amendable)) continue;
    Error e{format("Invalid parameter '{}'", name)};
    if (find_field(image.node().driver().create_options, name)) e.hint = "This option is only supported for image creation";
    return std::unexpected(std::move(e));
  }
  Progress progress{args.has("p"), 1};
  if (auto done = wait(q->amend(std::move(options))); !done) return fail("Error while amending options: {}", done.error().message);
  progress.finish();
  TRY(image.close());
  return 0;
}

// --- bitmap ---------------------------------------------------------------------------------------------------------------------------

Task<> merge_bitmap(block::Qcow2& from, std::string source, block::Qcow2& to, std::string target) {
  const auto granularity = [](const std::vector<block::Qcow2::BitmapInfo>& list, const std::string& name) -> u64 {
    for (const auto& b : list)
      if (b.name == name) return b.granularity;
    return 0;
  };
  const auto of_source = co_await from.bitmaps();
  const u64 g_from = granularity(of_source, source);
  const auto of_target = co_await to.bitmaps();
  const u64 g_to = granularity(of_target, target);
  if (!g_from) co_return fail("Dirty bitmap '{}' not found", source);
  if (!g_to) co_return fail("Dirty bitmap '{}' not found", target);
  if (from.length_bytes() != to.length_bytes())
    co_return fail("Bitmaps are of different sizes (destination size is {} and source size is {}) and can't be merged", to.length_bytes(),
                   from.length_bytes());
  const std::vector<u8> bits = co_await from.load_bitmap(source);
  std::vector<u8> out = co_await to.load_bitmap(target);
  const u64 length = to.length_bytes();
  for (u64 i = 0; i * g_from < length; i++) {
    if (!(bits[i / 8] >> i % 8 & 1)) continue;
    const u64 end = std::min(length, (i + 1) * g_from);
    for (u64 k = i * g_from / g_to; k * g_to < end; k++) out[k / 8] |= static_cast<u8>(1 << k % 8);
  }
  co_return co_await to.store_bitmap(std::move(target), std::move(out));
}

Result<int> run_bitmap(const Arguments& args) {
  if (args.words.size() != 2) return usage("Expecting filename and bitmap name");
  constexpr std::string_view actions[] = {"add", "remove", "clear", "enable", "disable", "merge"};
  std::vector<std::string> wanted;
  for (const auto a : actions)
    for (const auto& value : args.all(a)) wanted.push_back(a == "merge" ? "merge:" + value : std::string{a});
  if (wanted.empty()) return usage("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
  if (args.has("g") && !args.has("add")) return usage("granularity only supported with --add");
  if (args.has("b") && !args.has("merge")) return usage("Merge bitmap source file only supported with --merge");
  OpenOptions o = open_options(args);
  o.writes = o.resizes = true;
  Image image = TRY(Image::open(args.words[0], o));
  const std::string name = args.words[1];
  block::Qcow2* q = image.qcow2();
  for (const std::string& action : wanted) {
    const std::string verb = action.substr(0, action.find(':'));
    Result<> done;
    if (!q) {
      done = fail("Cannot store persistent bitmaps in {}", image.node().driver().name);
    } else if (verb == "add") {
      u32 granularity = 65536;
      if (args.has("g")) {
        const u64 g = TRY(parse_size(args.get("g")));
        granularity = g > 0x8000'0000 ? 3 : static_cast<u32>(g);
      }
      done = wait(q->add_bitmap(name, granularity, !args.has("disable")));
    } else if (verb == "remove") {
      done = wait(q->remove_bitmap(name));
    } else if (verb == "clear") {
      done = wait(q->clear_bitmap(name));
    } else if (verb == "enable" || verb == "disable") {
      if (!(verb == "disable" && args.has("add"))) done = wait(q->enable_bitmap(name, verb == "enable"));
    } else if (args.has("b")) {
      OpenOptions from;
      from.format = args.get("F");
      Image source = TRY(Image::open(args.get("b"), from));
      if (!source.qcow2()) return fail("Dirty bitmap '{}' not found", action.substr(6));
      done = wait(merge_bitmap(*source.qcow2(), action.substr(6), *q, name));
    } else {
      done = wait(merge_bitmap(*q, action.substr(6), *q, name));
    }
    if (!done) return fail("Operation {} on bitmap {} failed: {}", verb, name, done.error().message);
  }
  TRY(image.close());
  return 0;
}

constexpr OptionSpec create_options[] = {{'q', "quiet"}, {'f', "", true}, {'F', "", true},    {'b', "", true},
                                         {'u', ""},      {'o', "", true}, {0, "object", true}};
constexpr OptionSpec resize_options[] = {{'q', "quiet"}, {'f', "", true},     {0, "preallocation", true},
                                         {0, "shrink"},  {0, "object", true}, {0, "image-opts"}};
constexpr OptionSpec snapshot_options[] = {{'q', "quiet"},       {'l', ""},           {'a', "", true},  {'c', "", true}, {'d', "", true},
                                           {'U', "force-share"}, {0, "object", true}, {0, "image-opts"}};
constexpr OptionSpec amend_options[] = {{'q', "quiet"},  {'p', ""},    {'f', "", true},     {'t', "", true},
                                        {'o', "", true}, {0, "force"}, {0, "object", true}, {0, "image-opts"}};
constexpr OptionSpec bitmap_options[] = {{0, "add"},      {0, "remove"},      {0, "clear"},        {0, "enable"},
                                         {0, "disable"},  {0, "merge", true}, {'b', "", true},     {'F', "", true},
                                         {'g', "", true}, {'f', "", true},    {0, "object", true}, {0, "image-opts"}};

}  // namespace

const Command create_command{"create",
                             "[--object OBJECTDEF] [-q] [-f FMT] [-b BACKING_FILE [-F BACKING_FMT]] [-u] [-o OPTIONS] FILENAME [SIZE]",
                             create_options, run_create};
const Command resize_command{"resize",
                             "[--object OBJECTDEF] [--image-opts] [-f FMT] [--preallocation=PREALLOC] [-q] [--shrink] FILENAME [+ | -]SIZE",
                             resize_options, run_resize};
const Command snapshot_command{"snapshot",
                               "[--object OBJECTDEF] [--image-opts] [-U] [-q] [-l | -a SNAPSHOT | -c SNAPSHOT | -d SNAPSHOT] FILENAME",
                               snapshot_options, run_snapshot};
const Command amend_command{"amend", "[--object OBJECTDEF] [--image-opts] [-p] [-q] [-f FMT] [-t CACHE] [--force] -o OPTIONS FILENAME",
                            amend_options, run_amend};
const Command bitmap_command{"bitmap",
                             "(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b SOURCE_FILE [-F SOURCE_FMT]] [-g "
                             "GRANULARITY] [--object OBJECTDEF] "
                             "[--image-opts | -f FMT] FILENAME BITMAP",
                             bitmap_options, run_bitmap};

}  // namespace vmm::tools::img
