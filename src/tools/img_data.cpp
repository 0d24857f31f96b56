// vmm img compare, dd, bench, commit, rebase: commands that read or write the disk's contents.
#include <chrono>
#include <cstdio>

#include "block/format/backing.h"
#include "src/tools/img.h"

namespace vmm::tools::img {
namespace {

using block::Buffer;
using block::IoVector;

void say(const Arguments& args, const std::string& text) {
  if (!args.has("quiet")) std::fwrite(text.data(), 1, text.size(), stdout);
}
std::unexpected<Error> usage(std::string text) { return std::unexpected(Error{std::move(text)}.with_hint("usage")); }
constexpr u64 piece_bytes = 2 * MiB;

// --- compare --------------------------------------------------------------------------------------------------------------------------

// The first byte that differs, if any.
Task<std::optional<u64>> first_difference(Image& a, Image& b, Progress& progress) {
  const u64 la = a.length(), lb = b.length(), end = std::max(la, lb);
  Buffer x{piece_bytes}, y{piece_bytes};
  for (u64 at = 0; at < end;) {
    // Past the end of the shorter one there must be zeros.
    Status sa{.length = end - at}, sb{.length = end - at};
    if (at < la) sa = co_await status_at(a.node(), at, la - at);
    if (at < lb) sb = co_await status_at(b.node(), at, lb - at);
    u64 n = std::min(sa.length, sb.length);
    if (sa.kind == Status::Kind::zero && sb.kind == Status::Kind::zero) {
      progress.add(n), at += n;
      continue;
    }
    n = std::min(n, piece_bytes);
    const auto zeros = [](Buffer& buffer, u64 bytes) { std::memset(buffer.data(), 0, bytes); };
    if (sa.kind == Status::Kind::data)
      co_await a.edge().read(at, IoVector{x.data(), n});
    else
      zeros(x, n);
    if (sb.kind == Status::Kind::data)
      co_await b.edge().read(at, IoVector{y.data(), n});
    else
      zeros(y, n);
    if (std::memcmp(x.data(), y.data(), n) != 0) {
      u64 i = 0;
      while (x.data()[i] == y.data()[i]) i++;
      co_return std::optional<u64>{align_down(at + i, 512)};
    }
    progress.add(n), at += n;
  }
  co_return std::optional<u64>{};
}

Result<int> run_compare(const Arguments& args) {
  if (args.words.size() != 2) return usage("Expecting two image file names");
  OpenOptions o = open_options(args);
  o.cache = args.get("T", "writeback");
  OpenOptions second = o;
  second.format = args.get("F");
  Image a = TRY(Image::open(args.words[0], o)), b = TRY(Image::open(args.words[1], second));
  if (a.length() != b.length()) {
    if (args.has("s")) {
      say(args, "Strict mode: Image size mismatch!\n");
      return 1;
    }
  }
  Progress progress{args.has("p"), std::max(a.length(), b.length())};
  if (args.has("s")) {
    // Allocation must agree, too.
    for (u64 at = 0; at < a.length();) {
      const Status sa = TRY(wait(status_at(a.node(), at, a.length() - at))), sb = TRY(wait(status_at(b.node(), at, b.length() - at)));
      if (sa.present != sb.present) {
        say(args, format("Strict mode: Offset {} block status mismatch!\n", at));
        return 1;
      }
      at += std::min(sa.length, sb.length);
    }
  }
  const auto at = TRY(wait(first_difference(a, b, progress)));
  progress.finish();
  if (at) {
    say(args, format("Content mismatch at offset {}!\n", *at));
    return 1;
  }
  if (a.length() != b.length()) say(args, "Warning: Image size mismatch!\n");
  say(args, "Images are identical.\n");
  return 0;
}

// --- dd -------------------------------------------------------------------------------------------------------------------------------

Task<> copy_range(Image& from, u64 skip, Image& to, u64 length, u64 block_bytes) {
  Buffer buffer{std::max<u64>(block_bytes, 512)};
  for (u64 at = 0; at < length;) {
    const u64 n = std::min(block_bytes, length - at);
    co_await from.edge().read(skip + at, IoVector{buffer.data(), n});
    co_await to.edge().write(at, IoVector{buffer.data(), n});
    at += n;
  }
  co_return co_await to.edge().flush();
}

Result<int> run_dd(const Arguments& args) {
  std::map<std::string, std::string> operands;
  for (const std::string& word : args.words) {
    const auto equals = word.find('=');
    const std::string key = word.substr(0, equals);
    constexpr std::string_view known[] = {"if", "of", "bs", "count", "skip"};
    if (equals == word.npos || std::ranges::find(known, key) == std::end(known)) return fail("Unrecognized operand '{}'", word);
    operands[key] = word.substr(equals + 1);
  }
  if (!operands.contains("if") || !operands.contains("of")) return fail("Must specify both input and output files");
  u64 block_bytes = 512, count = ~u64{0}, skip = 0;
  const auto number = [&](const char* key, u64& to) -> Result<> {
    if (!operands.contains(key)) return {};
    const auto v = codec_detail::parse_size(Value{operands[key]}, key, {});
    if (!v) return fail("Invalid number: '{}'", operands[key]);
    to = *v;
    return {};
  };
  TRY(number("bs", block_bytes));
  TRY(number("count", count));
  TRY(number("skip", skip));
  if (!block_bytes || block_bytes > 1 * GiB) return fail("Invalid block size: '{}'", operands["bs"]);
  OpenOptions o = open_options(args);
  Image from = TRY(Image::open(operands["if"], o));
  const std::string out_format = args.get("O", "raw");
  const block::BlockDriver* driver = block::find_driver(out_format);
  if (!driver) return fail("Unknown file format '{}'", out_format);
  u64 size = from.length();
  if (const auto limit = mul_checked(count, block_bytes); limit && *limit < size) size = *limit;
  const u64 start = mul_checked(skip, block_bytes).value_or(~u64{0});
  u64 length = start >= from.length() ? 0 : std::min(size, from.length() - start);
  if (start > from.length()) report_error(format("{}: cannot skip to specified offset", operands["if"]));
  const u64 made = start >= from.length() ? 0 : (count == ~u64{0} ? from.length() - start : std::min(size, from.length() - start));
  block::CreateOptions how{.length_bytes = align_up(made, 512)};
  if (auto done = wait(block::create_image(loop(), operands["of"], out_format == "raw" ? "" : out_format, std::move(how))); !done)
    return fail("{}: error while creating output image of type '{}': {}", operands["of"], out_format, done.error().message);
  OpenOptions to;
  to.format = out_format, to.writes = to.resizes = true;
  Image target = TRY(Image::open(operands["of"], to));
  TRY(wait(copy_range(from, start, target, length, block_bytes)));
  TRY(target.close());
  return 0;
}

// --- bench ----------------------------------------------------------------------------------------------------------------------------

struct Bench {
  Image image;
  bool writes = false, drain = true;
  u64 count = 75000, depth = 64, offset = 0, size = 4096, step = 0, flush_every = 0;
  u8 pattern = 0;
  u64 issued = 0, at = 0, since_flush = 0;
  AsyncMutex flushing;
  std::optional<Error> failed;
};

Task<> bench_worker(Bench& b) {
  Buffer buffer{b.size};
  std::memset(buffer.data(), b.pattern, b.size);
  const u64 end = b.image.length();
  while (b.issued < b.count && !b.failed) {
    b.issued++;
    const u64 at = b.at;
    b.at += b.step;
    if (end <= b.size)
      b.at = 0;
    else
      b.at %= end - b.size;
    Result<> done;
    if (b.writes)
      done = co_await attempt(b.image.edge().write(at, buffer.vector()));
    else
      done = co_await attempt(b.image.edge().read(at, buffer.vector()));
    if (done && b.flush_every && ++b.since_flush >= b.flush_every) {
      b.since_flush = 0;
      done = co_await attempt(b.image.edge().flush());
    }
    if (!done && !b.failed) b.failed = done.error();
  }
  co_return Result<>{};
}
Task<> bench_all(Bench& b) {
  u64 left = std::min(b.depth, b.count);
  if (!left) co_return Result<>{};
  Completion<bool> all;
  for (u64 i = left; i > 0; i--)
    bench_worker(b).start([&](Result<>) {
      if (--left == 0) all.complete(true);
    });
  co_await all;
  if (b.failed) co_return std::unexpected(*b.failed);
  co_return Result<>{};
}

Result<int> run_bench(const Arguments& args) {
  Bench b;
  const auto number = [&](const char* key, u64& to, u64 most, const char* what) -> Result<> {
    if (!args.has(key)) return {};
    const auto v = codec_detail::parse_size(Value{args.get(key)}, what, {});
    if (!v || *v > most) return fail("Invalid {} specified", what);
    to = *v;
    return {};
  };
  if (args.words.size() != 1) return usage("Expecting one image file name");
  u64 pattern = 0;
  TRY(number("c", b.count, 0xffff'ffff, "request count"));
  TRY(number("d", b.depth, 65536, "queue depth"));
  TRY(number("o", b.offset, u64{INT64_MAX}, "offset"));
  TRY(number("s", b.size, 1 * GiB, "buffer size"));
  TRY(number("S", b.step, u64{INT64_MAX}, "step size"));
  TRY(number("flush-interval", b.flush_every, 0xffff'ffff, "flush interval"));
  TRY(number("pattern", pattern, 255, "pattern byte"));
  if (!b.depth || !b.size) return fail("Invalid queue depth specified");
  b.pattern = static_cast<u8>(pattern), b.writes = args.has("w");
  if (!b.writes && b.flush_every) return fail("--flush-interval is only available in write tests");
  if (!b.step) b.step = b.size;
  OpenOptions o = open_options(args);
  if (args.has("i")) o.aio = args.get("i");
  if (args.has("n")) o.aio = "native", o.cache = "none";
  o.writes = b.writes;
  b.image = TRY(Image::open(args.words[0], o));
  if (b.offset >= b.image.length() || b.size > b.image.length())
    return fail("the requests do not fit into the image ({} bytes)", b.image.length());
  b.at = b.offset;
  say(args, format("Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})\n", b.count,
                   b.writes ? "write" : "read", b.size, b.depth, b.offset, b.step));
  if (b.flush_every) say(args, format("Sending flush every {} requests\n", b.flush_every));
  std::fflush(stdout);
  const auto before = std::chrono::steady_clock::now();
  if (auto done = wait(bench_all(b)); !done) return fail("Failed request: {}", done.error().message);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - before;
  say(args, format("Run completed in {:.3f} seconds.\n", took.count()));
  TRY(b.image.close());
  return 0;
}

// --- commit ---------------------------------------------------------------------------------------------------------------------------

// What `top` has of its own goes into `base`.
Task<> commit_into(Image& top, Image& base, Progress& progress) {
  const u64 length = top.length();
  if (base.length() < length) co_await base.edge().truncate(length);
  Buffer buffer{piece_bytes};
  for (u64 at = 0; at < length;) {
    const Status s = co_await status_at(top.node(), at, length - at, true);
    u64 n = s.length;
    if (s.kind == Status::Kind::data) {
      n = std::min(n, piece_bytes);
      co_await top.edge().read(at, IoVector{buffer.data(), n});
      co_await base.edge().write(at, IoVector{buffer.data(), n});
    } else if (s.present) {
      co_await base.edge().zero(at, n, {.may_unmap = true});
    }
    at += n;
    progress.add(n);
  }
  co_return co_await base.edge().flush();
}

Result<int> run_commit(const Arguments& args) {
  if (args.words.size() != 1) return usage("Expecting one image file name");
  OpenOptions o = open_options(args);
  o.no_backing = true, o.writes = o.resizes = true;
  const std::string name = args.words[0];
  // From the top down to the base: each image's own data goes into the next, so that the base ends with what the top showed.
  std::vector<std::pair<std::string, std::string>> chain{{name, o.format}};
  const std::string wanted = args.get("b");
  for (;;) {
    OpenOptions look = o;
    look.writes = look.resizes = false, look.format = chain.back().second;
    Image image = TRY(Image::open(chain.back().first, look));
    const std::string backing = image.node().backing_filename();
    std::string backing_format;
    if (auto* q = image.qcow2()) backing_format = q->header().backing_format;
    if (backing.empty()) {
      if (chain.size() == 1) return fail("Image does not have a backing file");
      return fail("Did not find '{}' in the backing chain of '{}'", wanted, name);
    }
    chain.emplace_back(block::resolve_name(chain.back().first, backing), backing_format);
    if (wanted.empty() || chain.back().first == wanted || backing == wanted) break;
    if (chain.size() > 200) return fail("the chain of images is more than 200 deep");
  }
  OpenOptions below;
  below.format = chain.back().second, below.writes = below.resizes = true;
  Image base = TRY(Image::open(chain.back().first, below));
  Progress progress{args.has("p"), 0};
  for (usize i = chain.size() - 1; i-- > 0;) {
    OpenOptions each = o;
    each.format = chain[i].second;
    each.writes = each.resizes = i == 0 && !args.has("d");
    Image top = TRY(Image::open(chain[i].first, each));
    TRY(wait(commit_into(top, base, progress)));
    if (i == 0 && !args.has("d") && wanted.empty()) {
      if (auto* q = top.qcow2()) TRY(wait(q->make_empty()));
    }
    TRY(top.close());
  }
  progress.finish();
  TRY(base.close());
  say(args, "Image committed.\n");
  return 0;
}

// --- rebase ---------------------------------------------------------------------------------------------------------------------------

// Where `top` has nothing of its own and the two backing files differ, it gets the old one's data.
Task<> keep_contents(Image& top, block::Edge* old_base, Image* new_base, Progress& progress) {
  const u64 length = top.length();
  const u64 cluster = std::max<u64>(top.node().cluster_bytes(), 4096);
  Buffer old_data{piece_bytes}, new_data{piece_bytes};
  for (u64 at = 0; at < length;) {
    const Status s = co_await status_at(top.node(), at, length - at, true);
    u64 n = s.length;
    if (s.kind == Status::Kind::zero && !s.present) {
      n = std::min(n, piece_bytes);
      const auto read_base = [](block::Edge* edge, u64 offset, IoVector into) -> Task<> {
        const u64 end = edge ? edge->length_bytes() : 0;
        IoVector inside = into.take(offset < end ? end - offset : 0);
        into.fill(0);
        if (!inside.empty()) co_await edge->read(offset, inside);
        co_return Result<>{};
      };
      co_await read_base(old_base, at, IoVector{old_data.data(), n});
      co_await read_base(new_base ? &new_base->edge() : nullptr, at, IoVector{new_data.data(), n});
      for (u64 i = 0; i < n;) {
        const u64 part = std::min(cluster - (at + i) % cluster, n - i);
        if (std::memcmp(old_data.data() + i, new_data.data() + i, part) != 0) {
          if (block::all_zero({old_data.data() + i, part}))
            co_await top.edge().zero(at + i, part, {});
          else
            co_await top.edge().write(at + i, IoVector{old_data.data() + i, part});
        }
        i += part;
      }
    }
    at += n;
    progress.add(n);
  }
  co_return co_await top.edge().flush();
}

Result<int> run_rebase(const Arguments& args) {
  if (args.words.size() != 1) return usage("Expecting one image file name");
  if (!args.has("b")) return usage("Use backing_fmt only together with the backing file (-b)");
  const std::string new_name = args.get("b"), new_format = args.get("F");
  const bool unsafe = args.has("u");
  OpenOptions o = open_options(args);
  o.cache = args.get("t", "writeback");
  o.writes = o.resizes = true, o.no_backing = unsafe;
  Image top = TRY(Image::open(args.words[0], o));
  block::Qcow2* q = top.qcow2();
  if (!q) return fail("Could not change the backing file to '{}': Operation not supported", new_name);
  if (!new_name.empty() && new_format.empty())
    return fail("Could not change the backing file to '{}': backing format must be specified", new_name);
  if (!new_format.empty() && !block::find_driver(new_format)) return fail("Invalid format name: '{}'", new_format);
  if (!unsafe) {
    Image base;
    if (!new_name.empty()) {
      OpenOptions b;
      b.format = new_format;
      auto opened = Image::open(block::resolve_name(args.words[0], new_name), b);
      if (!opened) return fail("Could not open new backing file '{}': {}", new_name, opened.error().message);
      base = std::move(*opened);
    }
    Progress progress{args.has("p"), top.length()};
    TRY(wait(keep_contents(top, top.node().child("backing"), base ? &base : nullptr, progress)));
    progress.finish();
  }
  if (auto done = wait(q->set_backing(new_name, new_name.empty() ? "" : new_format)); !done)
    return fail("Could not change the backing file to '{}': {}", new_name, done.error().message);
  TRY(top.close());
  return 0;
}

constexpr OptionSpec compare_options[] = {{'p', ""},       {'q', "quiet"},  {'s', ""},           {'U', "force-share"}, {'f', "", true},
                                          {'F', "", true}, {'T', "", true}, {0, "object", true}, {0, "image-opts"}};
constexpr OptionSpec dd_options[] = {{'f', "", true}, {'O', "", true}, {'U', "force-share"}, {0, "object", true}, {0, "image-opts"}};
constexpr OptionSpec bench_options[] = {{'c', "", true},
                                        {'d', "", true},
                                        {'f', "", true},
                                        {'i', "", true},
                                        {'n', ""},
                                        {'o', "", true},
                                        {'q', "quiet"},
                                        {'s', "", true},
                                        {'S', "", true},
                                        {'t', "", true},
                                        {'w', ""},
                                        {'U', "force-share"},
                                        {0, "flush-interval", true},
                                        {0, "no-drain"},
                                        {0, "pattern", true},
                                        {0, "object", true},
                                        {0, "image-opts"}};
constexpr OptionSpec commit_options[] = {{'q', "quiet"},  {'p', ""},       {'d', ""},           {'f', "", true},  {'t', "", true},
                                         {'b', "", true}, {'r', "", true}, {0, "object", true}, {0, "image-opts"}};
constexpr OptionSpec rebase_options[] = {{'q', "quiet"},  {'p', ""},           {'u', ""},        {'U', "force-share"},
                                         {'f', "", true}, {'t', "", true},     {'T', "", true},  {'b', "", true},
                                         {'F', "", true}, {0, "object", true}, {0, "image-opts"}};

}  // namespace

const Command compare_command{
    "compare", "[--object OBJECTDEF] [--image-opts] [-f FMT] [-F FMT] [-T SRC_CACHE] [-p] [-q] [-s] [-U] FILENAME1 FILENAME2",
    compare_options, run_compare};
const Command dd_command{"dd",
                         "[--image-opts] [-U] [-f FMT] [-O OUTPUT_FMT] [bs=BLOCK_SIZE] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT",
                         dd_options, run_dd};
const Command bench_command{"bench",
                            "[-c COUNT] [-d DEPTH] [-f FMT] [--flush-interval=FLUSH_INTERVAL] [-i AIO] [-n] [--no-drain] [-o OFFSET] "
                            "[--pattern=PATTERN] [-q] [-s BUFFER_SIZE] "
                            "[-S STEP_SIZE] [-t CACHE] [-w] [-U] FILENAME",
                            bench_options, run_bench};
const Command commit_command{"commit",
                             "[--object OBJECTDEF] [--image-opts] [-q] [-f FMT] [-t CACHE] [-b BASE] [-r RATE_LIMIT] [-d] [-p] FILENAME",
                             commit_options, run_commit};
const Command rebase_command{
    "rebase",
    "[--object OBJECTDEF] [--image-opts] [-U] [-q] [-f FMT] [-t CACHE] [-T SRC_CACHE] [-p] [-u] -b BACKING_FILE [-F BACKING_FMT] FILENAME",
    rebase_options, run_rebase};

}  // namespace vmm::tools::img
