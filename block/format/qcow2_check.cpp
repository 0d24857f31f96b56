// Checking and repairing: all references are counted and compared with the refcounts. Source: "The QCOW2 image format", "Refcounts",
// "L1 table entry" (copied flag). Nothing found here is trusted: places outside of the file are reported and not followed.
#include <algorithm>
#include <unordered_map>

#include "block/format/qcow2.h"

namespace vmm::block {
using namespace qcow2;

struct Qcow2Check {
  Qcow2& image;
  Repair repair;
  CheckResult result{};
  u64 file_clusters = 0;
  bool rebuild = false;

  // Counted references, in pages that exist only where something refers to.
  static constexpr u64 page_clusters = 1024, most_pages = 1 << 18;
  std::unordered_map<u64, std::array<u32, page_clusters>> pages;
  bool too_big = false;

  template <class... Args>
  void say(fmt::format_string<Args...> text, Args&&... args) {
    if (result.messages.size() < 2000)
      result.messages.push_back(fmt::format(text, std::forward<Args>(args)...));
    else
      result.messages_dropped++;
  }
  std::string_view verb(bool fixes) const { return fixes ? "Repairing" : "ERROR"; }
  u32 counted(u64 cluster) const {
    const auto at = pages.find(cluster / page_clusters);
    return at == pages.end() ? 0 : at->second[cluster % page_clusters];
  }
  // References to [offset, +bytes); false if that lies outside of the file.
  bool count(u64 offset, u64 bytes, std::string_view what) {
    if (!bytes) return true;
    const Geometry& g = image.g_;
    const u64 first = offset >> g.cluster_bits, last = (offset + bytes - 1) >> g.cluster_bits;
    if (last >= file_clusters) {
      say("ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset {:#x} size {:#x} ({})", offset,
          bytes, what);
      result.corruptions++;
      return false;
    }
    for (u64 c = first; c <= last; c++) {
      if (!pages.contains(c / page_clusters) && pages.size() >= most_pages) {
        too_big = true;
        return false;
      }
      pages[c / page_clusters][c % page_clusters]++;
    }
    return true;
  }

  Task<> count_l2(u64 table, bool active, u64 l1_index);
  Task<> count_l1(u64 offset, std::vector<u64> l1, bool active);
  Task<> count_all();
  Task<> compare();
  Task<> check_copied_flags();
  Task<> rebuild_refcounts();
  u64 next_contiguous = 0;
  // An image that leads to one table again and again must not keep us for ever.
  u64 tables_walked = 0;
  static constexpr u64 most_tables = u64{1} << 24;
};

Task<> Qcow2Check::count_l2(u64 table, bool active, u64 l1_index) {
  const Geometry& g = image.g_;
  next_contiguous = 0;
  for (u64 at = 0; at < g.cluster_bytes(); at += image.l2_.slice_bytes()) {
    const auto got = co_await attempt(image.l2_.get(table + at));
    if (!got) {
      say("ERROR: L2 table at {:#x} cannot be read: {}", table + at, got.error().message);
      result.errors++;
      co_return Result<>{};
    }
    const SliceRef& slice = *got;
    for (u64 i = 0; i < image.slice_entries(); i++) {
      L2Entry e = image.entry_at(*slice, i);
      if (!e.word && !e.bitmap) continue;
      if (e.compressed()) {
        if (image.external()) {
          say("ERROR compressed cluster {} with data file, entry={:#x}", i, e.word);
          result.corruptions++;
          continue;
        }
        const CompressedRange range = decode_compressed(e.word, g.cluster_bits);
        // The last sector of the last cluster may be past the file's end.
        count(range.offset,
              std::min(range.bytes,
                       std::max<u64>(
                           1, (file_clusters << g.cluster_bits) > range.offset ? (file_clusters << g.cluster_bits) - range.offset : 1)),
              "compressed cluster");
        if (active) result.allocated_clusters++, result.compressed_clusters++, result.fragmented_clusters++;
        continue;
      }
      const u64 guest = (l1_index * g.l2_entries() + at / g.l2_entry_bytes() + i) << g.cluster_bits;
      if (const auto ok = image.check_entry(e, guest); !ok) {
        const bool fix = repair == Repair::all;
        say("{} {}", verb(fix), ok.error().message);
        result.corruptions++;
        if (fix) {
          // What such an entry stood for is lost: it reads as zeros.
          L2Entry zero;
          if (g.extended_l2)
            zero.bitmap = u64{0xffff'ffff} << 32;
          else if (image.header_.version >= 3)
            zero.word = zero_flag;
          image.set_entry(*slice, i, zero);
          result.corruptions--, result.corruptions_fixed++;
        }
        continue;
      }
      if (!e.host()) {
        if (active && image.external() && e.copied()) result.allocated_clusters++;
        continue;
      }
      if (active) {
        result.allocated_clusters++;
        if (next_contiguous && e.host() != next_contiguous) result.fragmented_clusters++;
        next_contiguous = e.host() + g.cluster_bytes();
      }
      if (!image.external()) count(e.host(), g.cluster_bytes(), format("data cluster of guest offset {:#x}", guest));
    }
  }
  co_return Result<>{};
}

Task<> Qcow2Check::count_l1(u64 offset, std::vector<u64> l1, bool active) {
  const Geometry& g = image.g_;
  count(offset, l1.size() * 8, "L1 table");
  std::set<u64> seen;
  for (u64 i = 0; i < l1.size(); i++) {
    const u64 table = l1[i] & offset_mask;
    if (!table) continue;
    if (g.in_cluster(table)) {
      const bool fix = repair == Repair::all && active;
      say("{} l2_offset={:#x}: Table is not cluster aligned; L1 entry corrupted", verb(fix), table);
      result.corruptions++;
      if (fix) {
        image.l1_[i] = 0, image.l1_dirty_.insert(i / 64);
        result.corruptions--, result.corruptions_fixed++;
      }
      continue;
    }
    if (!count(table, g.cluster_bytes(), format("L2 table of L1[{}]", i))) continue;
    if (!seen.insert(table).second) {
      say("ERROR: L1[{}] shares the L2 table at {:#x} with another entry", i, table);
      result.corruptions++;
      continue;
    }
    if (++tables_walked > most_tables) {
      say("ERROR: more than {} L2 tables; the check ends here", most_tables);
      result.errors++, too_big = true;
      break;
    }
    co_await count_l2(table, active, i);
    if (too_big) break;
  }
  co_return Result<>{};
}

Task<> Qcow2Check::count_all() {
  const Geometry& g = image.g_;
  const Header& h = image.header_;
  count(0, g.cluster_bytes(), "header");
  co_await count_l1(h.l1_offset, image.l1_, true);
  for (const Snapshot& s : image.snapshots_) {
    if (s.l1_offset + u64{s.l1_size} * 8 > file_clusters << g.cluster_bits) {
      say("ERROR snapshot {} ({}) l1_offset={:#x} is past the end of the file", s.id, s.name, s.l1_offset);
      result.corruptions++;
      continue;
    }
    std::vector<u64> l1 = co_await image.read_l1(s.l1_offset, s.l1_size);
    co_await count_l1(s.l1_offset, std::move(l1), false);
    if (too_big) co_return Result<>{};
  }
  if (h.snapshot_count) count(h.snapshots_offset, image.snapshot_table_bytes_, "snapshot table");
  if (h.bitmaps) {
    count(h.bitmaps->directory_offset, h.bitmaps->directory_bytes, "bitmap directory");
    const auto list = co_await attempt(image.read_bitmap_directory());
    if (!list) {
      say("ERROR: {}", list.error().message);
      result.corruptions++;
    } else {
      for (const Bitmap& b : *list) {
        if (!count(b.table_offset, u64{b.table_size} * 8, format("table of bitmap '{}'", b.name))) continue;
        const auto table = co_await attempt(image.read_bitmap_table(b));
        if (!table) {
          result.errors++;
          continue;
        }
        for (const u64 entry : *table) {
          const u64 data = entry & offset_mask;
          if (!data) continue;
          if (g.in_cluster(data) || (entry & ~(offset_mask | 1))) {
            say("ERROR: bitmap '{}' has the invalid table entry {:#x}", b.name, entry);
            result.corruptions++;
            continue;
          }
          count(data, g.cluster_bytes(), format("data of bitmap '{}'", b.name));
        }
      }
    }
  }
  count(h.refcount_table_offset, u64{h.refcount_table_clusters} << g.cluster_bits, "refcount table");
  for (u64 i = 0; i < image.refcount_table_.size(); i++) {
    const u64 block = image.refcount_table_[i] & offset_mask;
    if (!block) continue;
    if (g.in_cluster(block)) {
      say("ERROR refcount block {} is not cluster aligned; refcount table entry corrupted", i);
      result.corruptions++, rebuild = true;
      continue;
    }
    if (block >> g.cluster_bits >= file_clusters) {
      say("{} refcount block {} is outside image", verb(repair == Repair::all), i);
      result.corruptions++, rebuild = true;
      continue;
    }
    count(block, g.cluster_bytes(), format("refcount block {}", i));
    if (counted(block >> g.cluster_bits) != 1) {
      say("{} refcount block {} refcount={}", verb(repair == Repair::all), i, counted(block >> g.cluster_bits));
      result.corruptions++, rebuild = true;
    }
  }
  co_return Result<>{};
}

Task<> Qcow2Check::compare() {
  const Geometry& g = image.g_;
  u64 highest = 0;
  std::vector<std::pair<u64, u32>> lower, higher;  // to be set
  for (u64 c = 0; c < file_clusters;) {
    // Ranges without a block and without references are skipped at once: the file may be huge and empty.
    const u64 block = c / g.refcounts_per_block();
    const bool has_block = block < image.refcount_table_.size() && (image.refcount_table_[block] & offset_mask) &&
                           !g.in_cluster(image.refcount_table_[block] & offset_mask) &&
                           (image.refcount_table_[block] & offset_mask) >> g.cluster_bits < file_clusters;
    const u64 end = std::min({file_clusters, (block + 1) * g.refcounts_per_block(), align_down(c, page_clusters) + page_clusters});
    const bool has_page = pages.contains(c / page_clusters);
    if (!has_block && !has_page) {
      c = end;
      continue;
    }
    for (; c < end; c++) {
      u64 refcount = 0;
      if (has_block) {
        const auto got = co_await attempt(image.refcount(c));
        if (!got) {
          say("Can't get refcount for cluster {}: {}", c, got.error().message);
          result.errors++;
          continue;
        }
        refcount = *got;
      }
      const u32 references = counted(c);
      if (refcount || references) highest = c;
      if (refcount == references) continue;
      const bool leak = refcount > references;
      if (!refcount && references && !has_block) rebuild = true;
      const bool fix = leak ? repair != Repair::none : repair == Repair::all;
      say("{} cluster {} refcount={} reference={}", fix ? "Repairing" : leak ? "Leaked" : "ERROR", c, refcount, references);
      (leak ? result.leaks : result.corruptions)++;
      if (!fix) continue;
      if ((leak ? lower : higher).size() >= 1 << 20) continue;  // the next pass has them
      (leak ? lower : higher).emplace_back(c, references);
    }
  }
  result.image_end = (highest + 1) << g.cluster_bits;
  if (repair == Repair::all && rebuild) co_return co_await rebuild_refcounts();
  // Missing counts first: a cut in between must not leave a cluster that looks free.
  for (const auto& list : {std::cref(higher), std::cref(lower)}) {
    for (const auto& [cluster, value] : list.get()) {
      if (value > g.refcount_max()) {
        say("ERROR cluster {} has {} references, more than {} bits hold", cluster, value, g.refcount_bits());
        result.errors++;
        continue;
      }
      co_await image.set_refcounts(cluster, 1, value);
      const bool was_leak = &list.get() == &lower;
      (was_leak ? result.leaks : result.corruptions)--;
      (was_leak ? result.leaks_fixed : result.corruptions_fixed)++;
    }
    co_await image.write_refcounts();
    co_await image.file_flush();
  }
  co_return Result<>{};
}

// New blocks and a new table behind everything else; then the header names them.
Task<> Qcow2Check::rebuild_refcounts() {
  const Geometry& g = image.g_;
  say("Rebuilding refcount structure");
  // What the old structure itself took is not referred to any more.
  const auto uncount = [&](u64 offset, u64 bytes) {
    for (u64 c = offset >> g.cluster_bits; bytes && c <= (offset + bytes - 1) >> g.cluster_bits; c++)
      if (const auto at = pages.find(c / page_clusters); at != pages.end() && at->second[c % page_clusters])
        at->second[c % page_clusters]--;
  };
  uncount(image.header_.refcount_table_offset, u64{image.header_.refcount_table_clusters} << g.cluster_bits);
  for (const u64 entry : image.refcount_table_) {
    const u64 block = entry & offset_mask;
    if (block && !g.in_cluster(block) && block >> g.cluster_bits < file_clusters) uncount(block, g.cluster_bytes());
  }
  // The blocks that are needed, and those for the structure itself.
  std::set<u64> needed;
  for (const auto& [page, counts] : pages)
    for (u64 i = 0; i < page_clusters; i++)
      if (counts[i]) needed.insert((page * page_clusters + i) / g.refcounts_per_block());
  const u64 start = file_clusters;
  u64 table_clusters = 1;
  for (;;) {
    const u64 end = start + table_clusters + needed.size();
    const usize before = needed.size();
    for (u64 b = start / g.refcounts_per_block(); b <= (end - 1) / g.refcounts_per_block(); b++) needed.insert(b);
    const u64 table = g.clusters((*needed.rbegin() + 1) * 8);
    if (needed.size() == before && table <= table_clusters) break;
    table_clusters = std::max(table_clusters, table);
  }
  if (table_clusters << g.cluster_bits > max_refcount_table_bytes) co_return refuse(EFBIG, "the rebuilt refcount table would be too large");
  std::vector<u64> table((table_clusters << g.cluster_bits) / 8);
  u64 at = start + table_clusters;
  const u64 all_end = at + needed.size();
  for (const u64 b : needed) {
    std::vector<u8> bytes(g.cluster_bytes());
    for (u64 i = 0; i < g.refcounts_per_block(); i++) {
      const u64 c = b * g.refcounts_per_block() + i;
      const u64 value = c >= start && c < all_end ? 1 : counted(c);
      if (value) set_refcount(bytes, i, g.refcount_order, std::min<u64>(value, g.refcount_max()));
    }
    co_await image.file().write(at << g.cluster_bits, IoVector{std::span{bytes}});
    table[b] = at++ << g.cluster_bits;
  }
  std::vector<u64> wire = table;
  for (u64& e : wire) e = std::byteswap(e);
  co_await image.file().write(start << g.cluster_bits, IoVector{wire.data(), wire.size() * 8});
  co_await image.file_flush();
  image.header_.refcount_table_offset = start << g.cluster_bits;
  image.header_.refcount_table_clusters = static_cast<u32>(table_clusters);
  co_await image.write_header_words();
  co_await image.file_flush();
  image.refcount_table_ = std::move(table);
  image.refcount_table_dirty_.clear(), image.moved_table_.reset();
  image.refcounts_.forget_all();
  image.end_cluster_ = all_end, image.free_hint_ = 0;
  result.corruptions_fixed += std::exchange(result.corruptions, 0);
  result.leaks_fixed += std::exchange(result.leaks, 0);
  result.image_end = all_end << g.cluster_bits;
  co_return Result<>{};
}

// Flags of the active tables must say whether the count is one.
Task<> Qcow2Check::check_copied_flags() {
  const Geometry& g = image.g_;
  // Where a leak was mended the flag of what is left may have to follow: that is part of mending it.
  const bool fix_all = repair == Repair::all, follow = repair == Repair::leaks && result.leaks_fixed;
  const auto found = [&](bool fix) {
    result.corruptions += !fix;
    result.corruptions_fixed += fix && fix_all;
  };
  for (u64 i = 0; i < image.l1_.size(); i++) {
    const u64 table = image.l1_[i] & offset_mask;
    if (!table || g.in_cluster(table) || table >> g.cluster_bits >= file_clusters) continue;
    const u64 count = fix_all ? u64{counted(table >> g.cluster_bits)} : co_await image.refcount(table >> g.cluster_bits);
    if ((count == 1) != ((image.l1_[i] & copied_flag) != 0)) {
      const bool fix = fix_all || (follow && count == 1);
      say("{} OFLAG_COPIED L2 cluster: l1_index={} l1_entry={:x} refcount={}", verb(fix), i, image.l1_[i], count);
      found(fix);
      if (fix) image.l1_[i] = table | (count == 1 ? copied_flag : 0), image.l1_dirty_.insert(i / 64);
    }
    for (u64 at = 0; at < g.cluster_bytes(); at += image.l2_.slice_bytes()) {
      const auto slice = co_await attempt(image.l2_.get(table + at));
      if (!slice) break;
      for (u64 k = 0; k < image.slice_entries(); k++) {
        L2Entry e = image.entry_at(**slice, k);
        if (e.compressed()) {
          if (!e.copied()) continue;
          const bool fix = fix_all;
          say("{}: coffset={:#x}: copied flag must never be set for compressed clusters", verb(fix), e.word);
          found(fix);
          if (fix) e.word &= ~copied_flag, image.set_entry(**slice, k, e);
          continue;
        }
        if (!e.host() || image.external() || !image.check_entry(e, 0) || e.host() >> g.cluster_bits >= file_clusters) continue;
        const u64 references = fix_all ? u64{counted(e.host() >> g.cluster_bits)} : co_await image.refcount(e.host() >> g.cluster_bits);
        if ((references == 1) == e.copied()) continue;
        const bool fix = fix_all || (follow && references == 1);
        say("{} OFLAG_COPIED data cluster: l2_entry={:x} refcount={}", verb(fix), e.word, references);
        found(fix);
        if (fix) {
          e.word = (e.word & ~copied_flag) | (references == 1 ? copied_flag : 0);
          image.set_entry(**slice, k, e);
        }
      }
    }
  }
  co_return Result<>{};
}

Task<CheckResult> Qcow2::check(Repair repair) {
  if (repair != Repair::none && read_only()) co_return fail_os(EROFS);
  if (repair == Repair::none && open_ && !read_only()) co_await write_back(true);
  // While tables are mended they contradict one another.
  struct Unchecked {
    Qcow2& image;
    Overlap before = std::exchange(image.overlap_, Overlap::none);
    ~Unchecked() { image.overlap_ = before, image.overlap_stale_ = true; }
  };
  std::optional<Unchecked> unchecked;
  if (repair != Repair::none) unchecked.emplace(*this);
  Qcow2Check c{.image = *this, .repair = repair};
  c.file_clusters = g_.clusters(file().length_bytes());
  c.result.total_clusters = g_.clusters(header_.virtual_bytes);
  co_await c.count_all();
  if (c.too_big) co_return refuse(ENOMEM, "the image refers to more clusters than can be counted in memory");
  co_await c.compare();
  co_await c.check_copied_flags();
  if (repair != Repair::none) {
    // What was mended in tables; the usual order, but for the counts, which are right already.
    co_await write_refcounts();
    co_await write_back(true);
    free_hint_ = 0;
    if (repair == Repair::all && !c.result.errors && !c.result.corruptions) {
      if (marked_corrupt()) {
        header_.incompatible &= ~feature::corrupt;
        co_await write_header_words();
      }
      corrupt_.clear();
      if (marked_dirty()) co_await set_dirty(false);
    }
  }
  co_return std::move(c.result);
}

}  // namespace vmm::block
