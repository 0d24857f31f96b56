// vmm img convert: several coroutines walk the source's extents; what reads as zeros is skipped or zeroed, what holds data is read, looked
// through for zeros and written. Writes begin in the order of the disk, so that a new image is laid out in that order.
#include <cstdio>

#include "src/tools/img.h"
#include "src/tools/img_tables.h"

namespace vmm::tools::img {
namespace {

struct Source {
  Image image;
  u64 begin = 0, length = 0;
};

struct Copy {
  std::vector<Source> sources;
  Image target;
  u64 length = 0;       // of the target, in whole sectors
  u64 unit = 4096;      // zeros are looked for in pieces of this
  u64 sparse = 4096;    // -S: shorter runs of zeros are written; 0: all are
  u64 cluster = 65536;  // compressed pieces
  bool compressed = false, out_of_order = false, salvage = false;
  bool target_zero = false;  // the target reads as zeros where nothing was written
  bool has_backing = false;  // -B: what the source's top does not have, the target's backing file has
  Progress* progress = nullptr;

  // The walk, shared by all coroutines.
  u64 next = 0;
  const Source* known_source = nullptr;  // what status_at() last said, for how far: asking costs a walk through the extent
  u64 known_begin = 0, known_end = 0;
  Status known;
  u64 ticket = 0, turn = 0;  // in which order chunks may begin to write
  WaitList turns;
  std::optional<Error> failed;

  struct Chunk {
    u64 offset = 0, length = 0, ticket = 0;
    Status status;
  };
  using IoVector = block::IoVector;
  AsyncMutex walking;
  Task<Chunk> take();
  Task<> read(u64 offset, IoVector into);
  Task<> work();
  Task<> run_one(Chunk chunk, block::Buffer& buffer, bool& begun);
  Task<> write_data(u64 offset, std::span<u8> data);
};

constexpr u64 chunk_bytes = 2 * MiB;

Task<Copy::Chunk> Copy::take() {
  const auto guard = co_await walking.lock();
  Chunk c;
  if (next >= length || failed) co_return c;
  c.offset = next;
  const Source* source = nullptr;
  for (const Source& s : sources)
    if (next >= s.begin && next - s.begin < s.length) source = &s;
  if (!source) {
    // Past the last source's end, up to the whole sector.
    c.length = length - next;
    c.status.length = c.length;
  } else {
    const u64 in_source = next - source->begin;
    if (known_source != source || in_source < known_begin || in_source >= known_end) {
      auto status = co_await attempt(status_at(source->image.node(), in_source, source->length - in_source, has_backing));
      if (!status) {
        if (!salvage) co_return std::unexpected(status.error());
        report_warning(format("error while reading block status at offset {}: {}", next, status.error().message));
        status = Status{.kind = Status::Kind::data, .length = std::min<u64>(source->length - in_source, 512)};
      }
      known = *status, known_source = source, known_begin = in_source, known_end = in_source + status->length;
      // Neighbours of the same kind go together: a chunk is a chunk of data, wherever it lies.
      while (known.kind == Status::Kind::data && known_end - known_begin < chunk_bytes && known_end < source->length) {
        auto more = co_await attempt(status_at(source->image.node(), known_end, source->length - known_end, has_backing));
        if (!more || more->kind != Status::Kind::data) break;
        known_end += more->length;
      }
    }
    c.status = known;
    c.status.length = known_end - in_source;
    c.length = c.status.length;
    if (c.status.kind == Status::Kind::data) {
      c.length = std::min(c.length, chunk_bytes);
      // Whole clusters of the target, where the data goes on.
      const u64 end = align_down(next + c.length, std::max(unit, cluster));
      if (end > next && next + c.length < length) c.length = end - next;
      // A cluster that is packed must be had whole: what follows belongs to it, whatever it is.
      if (compressed && (next + c.length) % cluster) c.length = std::min(align_up(next + c.length, cluster), length) - next;
    } else if (compressed && (next + c.length) % cluster && next + c.length < length) {
      const u64 end = align_down(next + c.length, cluster);
      if (end > next) {
        c.length = end - next;
      } else {
        c.length = std::min(align_up(next + 1, cluster), length) - next;
        c.status.kind = Status::Kind::data;
      }
    }
  }
  next += c.length;
  c.ticket = ticket++;
  co_return c;
}

Task<> Copy::read(u64 offset, IoVector into) {
  while (!into.empty()) {
    const Source* source = nullptr;
    for (const Source& s : sources)
      if (offset >= s.begin && offset - s.begin < s.length) source = &s;
    if (!source) {
      into.fill(0);
      break;
    }
    IoVector part = into.take(source->begin + source->length - offset);
    const u64 size = part.size();
    const Result<> done = co_await attempt(source->image.edge().read(offset - source->begin, part));
    if (!done) {
      if (!salvage) co_return fail("error while reading at byte {}: {}", offset, done.error().message);
      // Sector by sector; what cannot be read is zeros.
      for (u64 at = 0; at < size; at += 512) {
        const u64 n = std::min<u64>(512, size - at);
        if (const auto one = co_await attempt(source->image.edge().read(offset - source->begin + at, part.part(at, n))); !one) {
          report_warning(format("error while reading offset {}: {}", offset + at, one.error().message));
          part.part(at, n).fill(0);
        }
      }
    }
    offset += size;
  }
  co_return Result<>{};
}

// Runs of data and of zeros, told apart in whole units.
Task<> Copy::write_data(u64 offset, std::span<u8> data) {
  block::Edge& to = target.edge();
  if (compressed) {
    while (!data.empty()) {
      const auto part = data.first(std::min<u64>(data.size(), cluster - offset % cluster));
      if (block::all_zero(part)) {
        if (!target_zero) co_await to.zero(offset, part.size(), {.may_unmap = true});
      } else {
        co_await to.write(offset, IoVector{part}, {.compressed = true});
      }
      offset += part.size(), data = data.subspan(part.size());
    }
    co_return Result<>{};
  }
  const u64 step = std::max(unit, sparse);
  while (!data.empty()) {
    if (!sparse) {
      co_await to.write(offset, IoVector{data});
      break;
    }
    const auto piece = [&](u64 at) { return data.subspan(at, std::min<u64>(step - (offset + at) % step, data.size() - at)); };
    u64 run = piece(0).size();
    const bool zero = block::all_zero(piece(0));
    while (run < data.size()) {
      const auto next_piece = piece(run);
      if (block::all_zero(next_piece) != zero) break;
      run += next_piece.size();
    }
    if (!zero)
      co_await to.write(offset, IoVector{data.first(run)});
    else if (!target_zero)
      co_await to.zero(offset, run, {.may_unmap = true});
    offset += run, data = data.subspan(run);
  }
  co_return Result<>{};
}

Task<> Copy::run_one(Chunk c, block::Buffer& buffer, bool& begun) {
  const bool zero = c.status.kind == Status::Kind::zero;
  const bool skip = zero && (has_backing ? !c.status.present : target_zero);
  const std::span<u8> data = buffer.span().first(std::min(c.length, buffer.size()));
  if (!zero) {
    const auto done = co_await attempt(read(c.offset, IoVector{data}));
    if (!done) co_return done;
  }
  while (!out_of_order && turn < c.ticket && !failed) co_await turns.wait();
  if (failed) co_return Result<>{};
  // The next may begin as soon as this one has: its space is claimed before it first waits.
  begun = true;
  Task<> writing = zero ? target.edge().zero(c.offset, c.length, {.may_unmap = true}) : write_data(c.offset, data);
  if (skip) {
    turn = std::max(turn, c.ticket + 1);
    turns.wake_all();
  } else {
    const auto next_turn = [](Copy& copy, u64 ticket) {
      copy.turn = std::max(copy.turn, ticket + 1);
      copy.turns.wake_all();
    };
    loop().post([this, next_turn, n = c.ticket] { next_turn(*this, n); });
    const auto written = co_await attempt(std::move(writing));
    if (!written) co_return fail("error while writing at byte {}: {}", c.offset, written.error().message);
  }
  if (progress) progress->add(c.length);
  co_return Result<>{};
}

Task<> Copy::work() {
  block::Buffer buffer{chunk_bytes};
  while (!failed) {
    const auto chunk = co_await attempt(take());
    Result<> done;
    if (!chunk) {
      done = std::unexpected(chunk.error());
    } else {
      if (!chunk->length) break;
      bool begun = false;
      done = co_await attempt(run_one(*chunk, buffer, begun));
    }
    if (!done && !failed) failed = done.error();
    if (failed) turns.wake_all();
  }
  co_return Result<>{};
}

Task<> run_copy(Copy& copy, unsigned coroutines) {
  unsigned left = coroutines;
  Completion<bool> all;
  for (unsigned i = 0; i < coroutines; i++)
    copy.work().start([&](Result<>) {
      if (--left == 0) all.complete(true);
    });
  co_await all;
  if (copy.failed) co_return std::unexpected(*copy.failed);
  co_return co_await copy.target.edge().flush();
}

Result<> copy_bitmaps(Image& from, Image& to, bool skip_broken) {
  block::Qcow2 *a = from.qcow2(), *b = to.qcow2();
  if (!a || !b) return fail("This format does not support bitmaps");
  for (const auto& info : TRY(wait(a->bitmaps()))) {
    if (info.flags & block::qcow2::Bitmap::in_use) {
      if (skip_broken) {
        report_warning(format("Skipping inconsistent bitmap '{}'", info.name));
        continue;
      }
      return fail("Cannot copy inconsistent bitmap '{}'; try --skip-broken-bitmaps, or 'bitmap --remove'", info.name);
    }
    std::vector<u8> bits = TRY(wait(a->load_bitmap(info.name)));
    TRY(wait(b->add_bitmap(info.name, info.granularity, (info.flags & block::qcow2::Bitmap::automatic) != 0)));
    TRY(wait(b->store_bitmap(info.name, std::move(bits))));
  }
  return {};
}

Result<int> run_convert(const Arguments& args) {
  if (args.words.size() < 2) return fail("Must specify image file name");
  const bool existing = args.has("n");
  Copy copy;
  copy.compressed = args.has("c"), copy.out_of_order = args.has("W"), copy.salvage = args.has("salvage");
  const std::string out_format = args.get("O", args.has("target-image-opts") ? "" : "raw");
  const std::string out_name = args.words.back();
  Value options = TRY(parse_options(args.all("o")));
  if (args.has("B")) options.set("backing_file", Value{args.get("B")});
  if (args.has("F")) options.set("backing_fmt", Value{args.get("F")});
  const Value* backing = options.find("backing_file");
  copy.has_backing = backing && !backing->get_string().empty();
  if (copy.has_backing && !options.find("backing_fmt"))
    return fail("backing file '{}' needs its format stated (-F, or -o backing_fmt=)", backing->get_string());
  if (args.has("target-is-zero") && !existing) return fail("--target-is-zero requires use of -n flag");
  if (args.has("bitmaps") && args.has("l")) return fail("--bitmaps and -l cannot be used together");
  unsigned coroutines = 8;
  if (args.has("m")) {
    const u64 m = TRY(parse_size(args.get("m")));
    if (m < 1 || m > 16) return fail("Invalid number of coroutines. Allowed number of coroutines is between 1 and 16");
    coroutines = static_cast<unsigned>(m);
  }
  if (args.has("S")) {
    copy.sparse = TRY(parse_size(args.get("S")));
    if (copy.sparse % 512)
      return fail(
          "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to 2147483136. Select 0 to disable sparse "
          "detection (fully allocates output).");
  }

  // Big transfers between page caches are memory copies: worker threads do them on all CPUs, where a ring's submission does them here.
  OpenOptions from;
  from.aio = "threads";
  from.format = args.get("f");
  from.cache = args.get("T", "writeback");
  from.image_options = args.has("image-opts"), from.force_share = args.has("force-share");
  from.snapshot = args.get("l");
  if (from.snapshot.starts_with("snapshot.name=")) from.snapshot.erase(0, 14);
  if (from.snapshot.starts_with("snapshot.id=")) from.snapshot.erase(0, 12);
  u64 total = 0;
  for (usize i = 0; i + 1 < args.words.size(); i++) {
    Source s{.image = TRY(Image::open(args.words[i], from))};
    s.begin = total, s.length = s.image.length();
    total += s.length;
    copy.sources.push_back(std::move(s));
  }
  const block::BlockDriver* driver = nullptr;
  if (!out_format.empty()) {
    driver = block::find_driver(out_format);
    if (!driver) return fail("Unknown file format '{}'", out_format);
  }
  copy.length = align_up(total, 512);
  if (const Value* size = options.find("size")) {
    copy.length = align_up(TRY(parse_size(size->get_string())), 512);
    options.erase("size");
  }
  if (!existing) {
    if (driver && !driver->create_format && !driver->create_file && out_format != "raw")
      return fail("Format driver '{}' does not support image creation", out_format);
    const Value* mode = options.find("preallocation");
    if (copy.compressed && mode && mode->get_string() != "off") return fail("Compression and preallocation not supported at the same time");
    block::CreateOptions how{.length_bytes = copy.length, .options = options};
    if (auto made = wait(block::create_image(loop(), out_name, out_format == "raw" ? "" : out_format, std::move(how))); !made)
      return fail("{}: error while converting {}: {}", out_name, out_format, made.error().message);
    // What was preallocated reads as zeros as well.
    copy.target_zero = true;
  } else {
    copy.target_zero = args.has("target-is-zero");
  }
  OpenOptions to;
  to.aio = "threads";
  to.format = args.has("target-image-opts") ? "" : out_format;
  to.image_options = args.has("target-image-opts");
  to.cache = args.get("t", "unsafe");
  to.writes = to.resizes = true;
  copy.target = TRY(Image::open(out_name, to));
  if (existing && copy.target.length() < copy.length) {
    if (copy.target.length() < total) return fail("output file is smaller than input file");
    copy.length = copy.target.length();
  }
  const auto target_cluster = copy.target.node().cluster_bytes();
  copy.cluster = target_cluster ? target_cluster : 65536;
  if (copy.compressed && !copy.target.qcow2()) return fail("Compression not supported for this file format");
  if (target_cluster) {
    const auto* q = copy.target.qcow2();
    copy.unit = q && q->header().geometry().extended_l2 ? target_cluster / 32 : target_cluster;
  }
  Progress progress{args.has("p"), copy.length};
  copy.progress = &progress;
  TRY(wait(run_copy(copy, coroutines)));
  progress.finish();
  if (args.has("bitmaps")) TRY(copy_bitmaps(copy.sources[0].image, copy.target, args.has("skip-broken-bitmaps")));
  TRY(copy.target.close());
  return 0;
}

constexpr OptionSpec convert_options[] = {{'c', ""},
                                          {'p', ""},
                                          {'q', "quiet"},
                                          {'n', ""},
                                          {'U', "force-share"},
                                          {'f', "", true},
                                          {'t', "", true},
                                          {'T', "", true},
                                          {'O', "", true},
                                          {'B', "", true},
                                          {'F', "", true},
                                          {'o', "", true},
                                          {'l', "", true},
                                          {'S', "", true},
                                          {'r', "", true},
                                          {'m', "", true},
                                          {'W', ""},
                                          {'C', ""},
                                          {0, "bitmaps"},
                                          {0, "skip-broken-bitmaps"},
                                          {0, "salvage"},
                                          {0, "object", true},
                                          {0, "image-opts"},
                                          {0, "target-image-opts"},
                                          {0, "target-is-zero"}};

}  // namespace

const Command convert_command{"convert",
                              "[--object OBJECTDEF] [--image-opts] [--target-image-opts] [--target-is-zero] [--bitmaps "
                              "[--skip-broken-bitmaps]] [-U] [-C] [-c] [-p] [-q] [-n] "
                              "[-f FMT] [-t CACHE] [-T SRC_CACHE] [-O OUTPUT_FMT] [-B BACKING_FILE [-F BACKING_FMT]] [-o OPTIONS] [-l "
                              "SNAPSHOT_PARAM] [-S SPARSE_SIZE] "
                              "[-r RATE_LIMIT] [-m NUM_COROUTINES] [-W] [--salvage] FILENAME [FILENAME2 [...]] OUTPUT_FILENAME",
                              convert_options, run_convert};

}  // namespace vmm::tools::img
