// memory-backend-ram, memory-backend-file, memory-backend-memfd. Host interfaces: madvise(2), mbind(2).
#include "src/vm/memory_backend.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <charconv>

#include "src/base/bits.h"

namespace vmm::vm {

namespace {
constexpr u64 node_limit = 1024;
}

MemoryBackend::~MemoryBackend() = default;

Result<> MemoryBackend::set_size(const Bytes64& size) {
  if (block_) return fail("cannot change property 'size' of {}", type_info().name);
  if (!size.value) return fail("property 'size' of {} doesn't take value '0'", type_info().name);
  size_ = size;
  return {};
}

Result<> MemoryBackend::take(std::string_view user) {
  if (in_use()) return fail("memory backend '{}' is in use by {}; it can be used only once", name(), user_);
  user_ = user;
  return {};
}
Result<> MemoryBackend::may_remove() const {
  if (in_use()) return fail("object '{}' is in use by {}, can not be deleted", name(), user_);
  return {};
}

Result<> MemoryBackend::complete() {
  if (block_) return {};
  if (!size_) return fail("Parameter 'size' is missing");
  if (prealloc_ && !reserve_) return fail("'prealloc=on' and 'reserve=off' are incompatible");
  memory::RamBlock::Options options{.name = canonical_name_  ? path()
                                            : name().empty() ? std::string{type_info().name}
                                                             : name(),
                                    .size_bytes = size_,
                                    .share = share_};
  TRY(fill_in(options));
  const bool from_file = !options.path.empty();
  auto block = TRY(memory::RamBlock::make(std::move(options)));
  if (from_file && block->size_bytes() != size_ && block->host_page_bytes() > memory::page_bytes)
    return fail("memory size {:#x} must be a multiple of the page size {:#x} of its file system", size_.value, block->host_page_bytes());
  // Advice is advice: a kernel without KSM or huge pages still runs the guest.
  if (merge_) ::madvise(block->host(), block->size_bytes(), MADV_MERGEABLE);
  if (!dump_) ::madvise(block->host(), block->size_bytes(), MADV_DONTDUMP);
  block_ = std::move(block);
  auto rest = [&]() -> Result<> {
    TRY(bind_to_nodes());
    if (prealloc_ && ::madvise(block_->host(), block_->size_bytes(), MADV_POPULATE_WRITE)) return fail_errno("preallocating memory failed");
    return {};
  }();
  if (!rest) block_.reset();
  return rest;
}

// A list of numbers, one number, or text such as "0-1" as the command line gives it.
Result<std::vector<u64>> MemoryBackend::node_mask() const {
  std::vector<u64> mask;
  auto add = [&](u64 first, u64 last) -> Result<> {
    if (first > last || last >= node_limit) return fail("'host-nodes' takes node numbers below {}, not {}-{}", node_limit, first, last);
    for (u64 n = first; n <= last; n++) {
      if (mask.size() <= n / 64) mask.resize(n / 64 + 1);
      mask[n / 64] |= u64{1} << (n % 64);
    }
    return {};
  };
  auto one = [&](const Value& v) -> Result<> {
    if (!v.is_string()) {
      const u64 n = TRY(v.as_u64("host-nodes"));
      return add(n, n);
    }
    const std::string& text = v.get_string();
    u64 first = 0, last = 0;
    const char *at = text.data(), *end = at + text.size();
    auto [stop, error] = std::from_chars(at, end, first);
    last = first;
    if (error == std::errc{} && stop != end && *stop == '-') {
      auto second = std::from_chars(stop + 1, end, last);
      stop = second.ptr, error = second.ec;
    }
    if (error != std::errc{} || stop != end) return fail("Parameter 'host-nodes' expects an int64 value or range");
    return add(first, last);
  };
  if (host_nodes_.is_list()) {
    for (const Value& v : host_nodes_.items()) TRY(one(v));
  } else if (!host_nodes_.is_null()) {
    TRY(one(host_nodes_));
  }
  return mask;
}

std::vector<u16> MemoryBackend::host_nodes() const {
  std::vector<u16> nodes;
  if (const auto mask = node_mask())
    for (usize n = 0; n < mask->size() * 64; n++)
      if ((*mask)[n / 64] >> (n % 64) & 1) nodes.push_back(u16(n));
  return nodes;
}

Result<> MemoryBackend::bind_to_nodes() {
  const std::vector<u64> mask = TRY(node_mask());
  if (!mask.empty() && policy_ == HostMemoryPolicy::default_)
    return fail("host-nodes must be empty for policy default, or you should explicitly specify a policy other than default");
  if (mask.empty() && policy_ != HostMemoryPolicy::default_)
    return fail("host-nodes must be set for policy {}", enum_names<HostMemoryPolicy>[usize(policy_)].name);
  if (mask.empty()) return {};
  static constexpr int modes[] = {MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE};
  if (::syscall(SYS_mbind, block_->host(), block_->size_bytes(), modes[usize(policy_)], mask.data(), mask.size() * 64 + 1,
                MPOL_MF_STRICT | MPOL_MF_MOVE))
    return fail_errno("cannot bind memory to host NUMA nodes");
  return {};
}

constexpr Field MemoryBackend::properties[] = {
    computed<&MemoryBackend::size, &MemoryBackend::set_size>("size", "Size of the memory region (ex: 500M)"),
    field<&MemoryBackend::share_>("share", "Mark the memory as private to QEMU or shared"),
    field<&MemoryBackend::merge_>("merge", "Mark memory as mergeable"),
    field<&MemoryBackend::dump_>("dump", "Set to 'off' to exclude from core dump"),
    field<&MemoryBackend::prealloc_>("prealloc", "Preallocate memory"),
    field<&MemoryBackend::prealloc_threads_>("prealloc-threads", "Number of CPU threads to use for prealloc", {.min = 1, .max = 1024}),
    field<&MemoryBackend::prealloc_context_>("prealloc-context", "Context to use for creating CPU threads for preallocation"),
    field<&MemoryBackend::reserve_>("reserve", "Reserve swap space (or huge pages) if applicable"),
    field<&MemoryBackend::host_nodes_>("host-nodes", "Binds memory to the list of NUMA host nodes"),
    field<&MemoryBackend::policy_>("policy", "Set the NUMA policy"),
    field<&MemoryBackend::canonical_name_>("x-use-canonical-path-for-ramblock-id", "Name the RAM block by the object's path"),
};
constinit const TypeInfo MemoryBackend::type{
    .name = "memory-backend", .doc = "Memory for guests.", .parent = &Object::type, .properties = properties};
static Registered registered{MemoryBackend::type};

// --- The three kinds

class MemoryBackendRam final : public MemoryBackend {
 public:
  static const TypeInfo type;
};
constinit const TypeInfo MemoryBackendRam::type{
    .name = "memory-backend-ram", .doc = "Anonymous memory.", .parent = &MemoryBackend::type, .make = make<MemoryBackendRam>};
static Registered registered_ram{MemoryBackendRam::type};

class MemoryBackendMemfd final : public MemoryBackend {
 public:
  static const TypeInfo type;
  MemoryBackendMemfd() { share_ = true; }

 private:
  Result<> fill_in(memory::RamBlock::Options& options) override {
    if (hugetlb_size_ && !hugetlb_) return fail("'hugetlbsize' needs 'hugetlb=on'");
    if (hugetlb_size_ && !std::has_single_bit(hugetlb_size_.value))
      return fail("'hugetlbsize' takes a power of two, not {}", hugetlb_size_.value);
    options.memfd = true;
    options.seal = seal_;
    options.hugetlb = hugetlb_;
    options.hugetlb_bytes = hugetlb_size_;
    return {};
  }
  static const Field properties[];
  bool hugetlb_ = false, seal_ = true;
  Bytes64 hugetlb_size_{};
};
constexpr Field MemoryBackendMemfd::properties[] = {
    field<&MemoryBackendMemfd::hugetlb_>("hugetlb", "Use huge pages"),
    field<&MemoryBackendMemfd::hugetlb_size_>("hugetlbsize", "Huge pages size (ex: 2M, 1G)"),
    field<&MemoryBackendMemfd::seal_>("seal", "Seal growing & shrinking"),
};
constinit const TypeInfo MemoryBackendMemfd::type{.name = "memory-backend-memfd",
                                                  .doc = "Memory behind a descriptor that other processes can map.",
                                                  .parent = &MemoryBackend::type,
                                                  .properties = properties,
                                                  .make = make<MemoryBackendMemfd>};
static Registered registered_memfd{MemoryBackendMemfd::type};

class MemoryBackendFile final : public MemoryBackend {
 public:
  static const TypeInfo type;
  ~MemoryBackendFile() override {
    if (discard_data_ && share_ && block_) ::madvise(block_->host(), block_->size_bytes(), MADV_REMOVE);
  }

 private:
  Result<> fill_in(memory::RamBlock::Options& options) override {
    if (mem_path_.empty()) return fail("Parameter 'mem-path' is missing");
    if (align_ && !std::has_single_bit(align_.value)) return fail("'align' takes a power of two, not {}", align_.value);
    options.path = mem_path_;
    options.read_only = read_only_;
    options.alignment = align_;
    return {};
  }
  static const Field properties[];
  std::string mem_path_;
  bool discard_data_ = false, read_only_ = false, pmem_ = false;
  Bytes64 align_{};
};
constexpr Field MemoryBackendFile::properties[] = {
    field<&MemoryBackendFile::mem_path_>("mem-path", "File, or directory for a temporary one"),
    field<&MemoryBackendFile::discard_data_>("discard-data", "Drop the file's contents at the end"),
    field<&MemoryBackendFile::align_>("align", "Alignment of the mapping"),
    field<&MemoryBackendFile::read_only_>("readonly", "Open the file for reading only"),
    field<&MemoryBackendFile::pmem_>("pmem", "The file is persistent memory"),
};
constinit const TypeInfo MemoryBackendFile::type{.name = "memory-backend-file",
                                                 .doc = "Memory that is a file's contents.",
                                                 .parent = &MemoryBackend::type,
                                                 .properties = properties,
                                                 .make = make<MemoryBackendFile>};
static Registered registered_file{MemoryBackendFile::type};

}  // namespace vmm::vm
