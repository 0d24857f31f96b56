// RAM blocks, their dense page numbers and dirty bitmaps. Host interfaces: mmap(2), memfd_create(2), madvise(2).
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstdio>
#include <sstream>

#include "src/base/bits.h"
#include "src/base/host.h"
#include "src/base/log.h"
#include "src/memory/logging.h"
#include "src/memory/memory.h"
#include "src/memory/ram_window.h"
#include "src/memory/reader.h"

namespace vmm::memory {

std::atomic<CodeListener*> code_listener{nullptr};
std::atomic<LoggingListener*> logging_listener{nullptr};

namespace {

// Sorted by page number. An immutable copy is published for block_of().
struct Table {
  struct Row {
    PageNumber first;
    u32 pages;
    RamBlock* block;
  };
  std::vector<Row> rows;
};
struct Blocks {
  Mutex mutex;
  std::shared_ptr<const Table> current GUARDED_BY(mutex) = std::make_shared<Table>();
  std::atomic<const Table*> published{current.get()};
  std::atomic<PageNumber> limit{0};

  static Blocks& all() {
    static auto* blocks = new Blocks;
    return *blocks;
  }
  void publish(std::shared_ptr<const Table> table) REQUIRES(mutex) {
    published.store(table.get(), std::memory_order_seq_cst);
    std::swap(current, table);
    retire(std::move(table));
  }
};

constexpr u64 huge_page = 2 * MiB, least_for_huge_pages = 32 * MiB;

// `length` bytes of address space aligned to `alignment`; no memory yet.
Result<u8*> reserve(u64 length, u64 alignment) {
  const auto total = add_checked(length, alignment);
  if (!total) return fail("RAM of {} bytes is more than the host can address", length);
  // A hint only: where it is taken, the kernel finds another place.
  static std::atomic<u64> next{0};
  const u64 room = align_up(*total, huge_page);
  u64 offset = next.fetch_add(room, std::memory_order_relaxed);
  if (room > ram_window_bytes || offset > ram_window_bytes - room) offset = 0, next.store(room, std::memory_order_relaxed);
  void* at = ::mmap(reinterpret_cast<void*>(ram_window_at + offset), *total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return fail_errno(format("cannot set up guest memory ({} bytes)", length));
  u8* const low = static_cast<u8*>(at);
  u8* const start = reinterpret_cast<u8*>(align_up(reinterpret_cast<u64>(low), alignment));
  if (start > low) ::munmap(low, usize(start - low));
  if (u8 *const end = start + length, *const high = low + *total; high > end) ::munmap(end, usize(high - end));
  return start;
}

bool in_window(u64 host, u64 bytes) { return host - ram_window_at < ram_window_bytes && bytes <= ram_window_at + ram_window_bytes - host; }

struct Backing {
  Fd fd;
  u64 page = page_bytes;
};

Result<Backing> open_path(const RamBlock::Options& o) {
  Backing b;
  struct stat info{};
  const bool exists = ::stat(o.path.c_str(), &info) == 0;
  bool fresh = false;
  if (exists && S_ISDIR(info.st_mode)) {
    std::string clean = o.name;
    std::ranges::replace(clean, '/', '_');
    const std::string name = host::random_path(o.path, format("vmm_back_mem.{}.", clean));
    b.fd.reset(host::open_file(name, O_RDWR | O_CREAT | O_EXCL, 0600));
    if (b.fd) host::remove_file(name);
    fresh = true;
  } else {
    b.fd.reset(host::open_file(o.path, o.read_only ? O_RDONLY : O_RDWR | (exists ? 0 : O_CREAT), 0644));
    fresh = !exists;
  }
  if (!b.fd) return fail_errno(format("can't open backing store {} for guest RAM", o.path));
  struct statfs fs{};
  if (::fstatfs(b.fd.get(), &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC) b.page = u64(fs.f_bsize);
  if (::fstat(b.fd.get(), &info)) return fail_errno(format("can't examine backing store {}", o.path));
  const u64 want = align_up(o.size_bytes, b.page);
  if (fresh || (S_ISREG(info.st_mode) && info.st_size == 0)) {
    if (::ftruncate(b.fd.get(), off_t(want))) return fail_errno(format("can't size backing store {}", o.path));
  } else if (S_ISREG(info.st_mode) && u64(info.st_size) < o.size_bytes) {
    return fail("backing store size {:#x} does not match 'size' option {:#x}", info.st_size, o.size_bytes);
  }
  return b;
}

Result<Backing> open_memfd(const RamBlock::Options& o) {
  Backing b;
  unsigned flags = MFD_CLOEXEC;
  if (o.hugetlb) {
    b.page = o.hugetlb_bytes ? o.hugetlb_bytes : huge_page;
    if (!std::has_single_bit(b.page) || b.page < page_bytes) return fail("hugetlbsize {} is not a size of huge pages", b.page);
    flags |= MFD_HUGETLB | (unsigned(std::countr_zero(b.page)) << 26 /* MFD_HUGE_SHIFT */);
  } else {
    flags |= MFD_ALLOW_SEALING;
  }
  b.fd.reset(::memfd_create(o.name.substr(0, 200).c_str(), flags));
  if (!b.fd) return fail_errno("failed to create memfd");
  if (::ftruncate(b.fd.get(), off_t(align_up(o.size_bytes, b.page)))) return fail_errno("failed to size memfd");
  if (!o.hugetlb && o.seal) ::fcntl(b.fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  return b;
}

// Opened with the first block of RAM: a thread that asks later may open nothing any more (src/cage).
int maps_of_process() {
  static const Fd maps{::open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
  return maps.get();
}
std::string text_of_maps() {
  std::string text;
  char bytes[4096];
  for (ssize_t n; (n = ::pread(maps_of_process(), bytes, sizeof bytes, off_t(text.size()))) != 0;) {
    if (n > 0) text.append(bytes, usize(n));
    if (n < 0 && errno != EINTR) return {};
  }
  return text;
}

}  // namespace

bool ram_window_is_alone() {
  {
    Blocks& all = Blocks::all();
    const Lock lock{all.mutex};
    for (const Table::Row& row : all.current->rows)
      if (!in_window(reinterpret_cast<u64>(row.block->host()), row.block->size_bytes())) return false;
  }
  constexpr u64 like = u64{1} << 43, from = ram_window_at % like, to = from + ram_window_bytes;
  const std::string maps = text_of_maps();
  if (maps.empty()) return false;
  std::istringstream lines{maps};
  for (std::string line; std::getline(lines, line);) {
    unsigned long long low = 0, high = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &low, &high) != 2 || high <= low) continue;
    if (in_window(low, high - low)) continue;
    if (high - low >= like) return false;
    const u64 first = low % like, last = first + (high - low);  // the second copy: it may go on beyond a multiple
    if ((first < to && last > from) || (first < to + like && last > from + like)) return false;
  }
  return true;
}

Result<std::shared_ptr<RamBlock>> RamBlock::make(Options o) {
  if (!o.size_bytes) return fail("RAM block '{}' would be empty", o.name);
  if (o.size_bytes > u64{1} << 46) return fail("RAM block '{}' of {} bytes is more than the host can address", o.name, o.size_bytes);
  if (o.alignment && !std::has_single_bit(o.alignment)) return fail("alignment {} is not a power of two", o.alignment);
  (void)maps_of_process();
  auto block = std::shared_ptr<RamBlock>{new RamBlock};
  Backing backing;
  const bool given = bool(o.fd);
  if (given)
    backing.fd = std::move(o.fd);
  else if (!o.path.empty())
    backing = TRY(open_path(o));
  else if (o.share || o.hugetlb || o.memfd)
    backing = TRY(open_memfd(o));
  const u64 size = align_up(o.size_bytes, std::max(backing.page, page_bytes));
  const u64 alignment = std::max({o.alignment, backing.page, size >= huge_page ? huge_page : page_bytes});
  u8* const host = TRY(reserve(size, alignment));
  // A ROM is read-only for guests; we ourselves load it. Only a file that we may not write is mapped so.
  const bool file_read_only = o.read_only && (given || !o.path.empty());
  const int protection = file_read_only && o.share ? PROT_READ : PROT_READ | PROT_WRITE;
  const int flags = MAP_FIXED | (backing.fd && o.share ? MAP_SHARED : MAP_PRIVATE) | (backing.fd ? 0 : MAP_ANONYMOUS | MAP_NORESERVE);
  if (::mmap(host, size, protection, flags, backing.fd.get(), 0) == MAP_FAILED) {
    auto error = fail_errno(format("unable to map backing store for guest RAM '{}'", o.name));
    ::munmap(host, size);
    return error;
  }
  // Video memory and its like is touched here and there: huge pages would only hold more of it.
  if (!backing.fd && size >= least_for_huge_pages) ::madvise(host, size, MADV_HUGEPAGE);
  block->host_ = host;
  block->size_ = size;
  block->host_page_ = backing.page;
  block->read_only_ = o.read_only;
  block->fd_ = std::move(backing.fd);
  if (o.prealloc && ::madvise(host, size, MADV_POPULATE_WRITE)) return fail_errno("preallocating memory failed");
  const u64 pages = size / page_bytes, words = (pages + 63) / 64;
  for (auto& bitmap : block->dirty_) bitmap = std::make_unique<std::atomic<u64>[]>(words);

  Blocks& all = Blocks::all();
  Lock lock{all.mutex};
  auto table = std::make_shared<Table>(*all.current);
  // Two devices of a kind may ask for one name; the order of making them, and so the name, is that of the command line.
  block->name_ = o.name;
  const auto taken = [&](const std::string& name) {
    return std::ranges::any_of(table->rows, [&](auto& r) { return r.block->name_ == name; });
  };
  for (unsigned n = 2; taken(block->name_); n++) block->name_ = format("{}#{}", o.name, n);
  u64 first = 0;
  auto at = table->rows.begin();
  for (; at != table->rows.end() && at->first - first < pages; ++at) first = u64{at->first} + at->pages;
  if (first + pages >= no_page) return fail("too much RAM: page numbers are used up");
  block->first_page_ = PageNumber(first);
  table->rows.insert(at, {PageNumber(first), u32(pages), block.get()});
  all.limit.store(std::max(all.limit.load(), PageNumber(first + pages)), std::memory_order_release);
  all.publish(std::move(table));
  return block;
}

RamBlock::~RamBlock() {
  Blocks& all = Blocks::all();
  {
    Lock lock{all.mutex};
    auto table = std::make_shared<Table>(*all.current);
    if (std::erase_if(table->rows, [&](auto& r) { return r.block == this; })) {
      if (CodeListener* listener = code_listener.load(std::memory_order_acquire)) listener->ram_gone(*this);
      all.publish(std::move(table));
    }
  }
  if (host_) ::munmap(host_, size_);
}

void RamBlock::set_dirty_logging(DirtyClient client, bool on) {
  const u8 bit = u8(1u << unsigned(client));
  if (!on) {
    const u8 before = logging_.fetch_and(u8(~bit), std::memory_order_seq_cst);
    LoggingListener* const listener = logging_listener.load(std::memory_order_acquire);
    if (listener && before == bit) listener->logging_stopped(*this);
    return;
  }
  if (logging_.fetch_or(bit, std::memory_order_seq_cst) & bit) return;
  if (LoggingListener* listener = logging_listener.load(std::memory_order_acquire)) listener->logging_started(*this);
}

void RamBlock::mark_dirty(u64 offset, u64 length) {
  const u8 mask = logging_.load(std::memory_order_relaxed);
  if (!mask || !length || offset >= size_) return;
  // A bit seen set below must not be one that a sync is clearing before it reads the bytes that were just stored.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const u64 first = offset / page_bytes, last = (offset + std::min(length, size_ - offset) - 1) / page_bytes;
  for (unsigned client = 0; client < dirty_client_count; client++) {
    if (!(mask >> client & 1)) continue;
    for (u64 word = first / 64; word <= last / 64; word++) {
      u64 bits = ~u64{0};
      if (word == first / 64) bits &= ~u64{0} << (first % 64);
      if (word == last / 64) bits &= ~u64{0} >> (63 - last % 64);
      if ((dirty_[client][word].load(std::memory_order_relaxed) & bits) != bits)
        dirty_[client][word].fetch_or(bits, std::memory_order_release);
    }
  }
}

bool RamBlock::dirty(DirtyClient client, u64 page_index) const {
  if (page_index >= size_ / page_bytes) return false;
  return dirty_[unsigned(client)][page_index / 64].load(std::memory_order_acquire) >> (page_index % 64) & 1;
}

void RamBlock::fetch_and_clear_dirty(DirtyClient client, u64 first, u64 count, std::vector<u64>& out) {
  if (LoggingListener* listener = logging_listener.load(std::memory_order_acquire)) listener->harvest(*this);
  out.assign((count + 63) / 64, 0);
  const u64 pages = size_ / page_bytes;
  if (first >= pages) return;
  const u64 end = first + std::min(count, pages - first);
  for (u64 word = first / 64; word * 64 < end; word++) {
    u64 wanted = ~u64{0};
    if (word == first / 64) wanted &= ~u64{0} << (first % 64);
    if (end < (word + 1) * 64) wanted &= ~u64{0} >> (64 - end % 64);
    auto& bitmap = dirty_[unsigned(client)][word];
    if (!(bitmap.load(std::memory_order_relaxed) & wanted)) continue;
    const u64 bits = bitmap.fetch_and(~wanted, std::memory_order_acq_rel) & wanted;
    // Shifted so that bit 0 of out[0] is page `first`.
    const i64 at = i64(word * 64) - i64(first);
    if (at >= 0) {
      out[u64(at) / 64] |= bits << (u64(at) % 64);
      if (at % 64 && u64(at) / 64 + 1 < out.size()) out[u64(at) / 64 + 1] |= bits >> (64 - u64(at) % 64);
    } else {
      out[0] |= bits >> u64(-at);
    }
  }
}

std::vector<RamBlock*> ram_blocks() {
  Blocks& all = Blocks::all();
  Lock lock{all.mutex};
  std::vector<RamBlock*> blocks;
  for (auto& row : all.current->rows) blocks.push_back(row.block);
  return blocks;
}

RamBlock* block_of(PageNumber page) {
  ReadPin pin;
  const auto& rows = Blocks::all().published.load(std::memory_order_seq_cst)->rows;
  auto at = std::ranges::upper_bound(rows, page, {}, &Table::Row::first);
  if (at == rows.begin()) return nullptr;
  --at;
  return page - at->first < at->pages ? at->block : nullptr;
}

PageNumber page_number_limit() { return Blocks::all().limit.load(std::memory_order_acquire); }

}  // namespace vmm::memory
