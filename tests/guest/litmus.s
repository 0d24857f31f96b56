# Memory order with four processors (run with -smp 4): the programs that x86's order forbids an outcome of, each over thousands of cells, and
# locked operations of every kind, over cache lines and pages too. Sources: SDM 3A §8.2 (examples 8-1 to 8-10), §8.1.2 (locked operations),
# §8.4 (starting processors); Sewell et al., "x86-TSO" (2010), for the names.
.include "lib.inc"
.set CPUS, 4
.set CELLS, 2048
.set STRIDE, 64
.set X, 0x1000000              # a cell a cache line
.set Y, 0x1100000
.set R, 0x1200000              # four results a cell
.set WORDS, 0x1300000          # what all of them count in
.set TIMES, 3000

# Everybody runs the job with its number in edi; comes back when all have ended.
.macro TOGETHER job:req
  movl $0, ready
  movl $0, done
  movl $\job, job
  lock incl turn
  xor %edi, %edi
  call run_job
1001\@:
  pause
  cmpl $CPUS, done
  jne 1001\@b
.endm
# A litmus job, four times, with cleared cells before and `check` (ebx: address of the cell's results, rsi, rdx: X and Y cells) after.
.macro LITMUS job:req, check:req, text:vararg
  movl $4, rounds
1002\@:
  mov $X, %edi
  mov $(WORDS - X) / 8, %ecx
  xor %eax, %eax
  rep stosq
  TOGETHER \job
  mov $R, %ebx
  mov $X, %esi
  mov $Y, %edx
  xor %r8, %r8
  mov $CELLS, %ecx
1003\@:
  call \check
  add $32, %ebx
  add $STRIDE, %esi
  add $STRIDE, %edx
  dec %ecx
  jnz 1003\@b
  IS %r8, 0, \text
  decl rounds
  jnz 1002\@b
.endm
# The loop of a job over its cells: r8 and r9 are the cells of X and Y, r10 its results.
.macro EACH
  mov $X, %r8d
  mov $Y, %r9d
  mov $R, %r10d
  mov $CELLS, %ecx
9:
.endm
.macro NEXT_CELL
  add $STRIDE, %r8
  add $STRIDE, %r9
  add $32, %r10
  dec %ecx
  jnz 9b
  ret
.endm

.globl main
main:
  # The others are started by INIT and SIPI to all but self.
  NEEDS 1, 0, ecx, 21, nobody
  mov $trampoline, %esi
  mov $0x8000, %edi
  mov $trampoline_end - trampoline, %ecx
  rep movsb
  mov $0x1b, %ecx
  rdmsr
  or $0xc00, %eax
  wrmsr
  WRMSR 0x830, 0x000c4500
  WRMSR 0x830, 0x000c4608
1: pause
  cmpl $CPUS, started
  jne 1b

  # What a store buffer may not show through a fence, a locked operation, an exchange.
  LITMUS sb_mfence, both_zero, store buffering with MFENCE
  LITMUS sb_lock, both_zero, store buffering with a locked operation
  LITMUS sb_xchg, both_zero, store buffering with XCHG
  LITMUS message, seen_backwards, message passing
  LITMUS load_buffering, both_one, load buffering
  LITMUS two_writes, both_one_left, two writers in opposite order
  LITMUS iriw, opposite_orders, independent reads of independent writes
  LITMUS chain, chain_broken, causality over three processors
  LITMUS coherence, went_back, two reads of one cell

  # Nothing that is locked is lost.
  TOGETHER count_inc
  IS WORDS, CPUS * TIMES, lock inc
  TOGETHER count_xadd
  IS WORDS + 64, CPUS * TIMES * 3, lock xadd
  TOGETHER count_cmpxchg
  IS WORDS + 128, CPUS * TIMES, lock cmpxchg
  TOGETHER count_16b
  IS WORDS + 192, CPUS * TIMES, lock cmpxchg16b
  IS WORDS + 200, CPUS * TIMES * 5, its upper half
  TOGETHER count_under_lock
  IS WORDS + 264, CPUS * TIMES, a counter under a lock by xchg
  TOGETHER count_bits
  IS WORDS + 320, 0, locked bit operations
  IS wrong, 0, a bit of one processor alone
  TOGETHER count_line
  IS WORDS + 0x400 - 4, CPUS * TIMES, lock add over two cache lines
  TOGETHER count_page
  IS WORDS + 0x1000 - 4, CPUS * 500, lock add over two pages
  # A store of eight bytes is one, wherever it stands in its cache line.
  TOGETHER whole_stores
  IS wrong, 0, halves of a store
nobody:
  ret

# --- jobs

sb_mfence:
  cmp $1, %edi
  ja done_here
  je 1f
  EACH
  movq $1, (%r8)
  mfence
  mov (%r9), %rax
  mov %rax, (%r10)
  NEXT_CELL
1:
  EACH
  movq $1, (%r9)
  mfence
  mov (%r8), %rax
  mov %rax, 8(%r10)
  NEXT_CELL
sb_lock:
  cmp $1, %edi
  ja done_here
  je 1f
  EACH
  movq $1, (%r8)
  lock orq $0, (%rsp)
  mov (%r9), %rax
  mov %rax, (%r10)
  NEXT_CELL
1:
  EACH
  movq $1, (%r9)
  lock orq $0, (%rsp)
  mov (%r8), %rax
  mov %rax, 8(%r10)
  NEXT_CELL
sb_xchg:
  mov $1, %esi
  cmp $1, %edi
  ja done_here
  je 1f
  EACH
  mov %rsi, %rax
  xchg %rax, (%r8)
  mov (%r9), %rax
  mov %rax, (%r10)
  NEXT_CELL
1:
  EACH
  mov %rsi, %rax
  xchg %rax, (%r9)
  mov (%r8), %rax
  mov %rax, 8(%r10)
  NEXT_CELL
message:
  cmp $1, %edi
  ja done_here
  je 1f
  EACH
  movq $1, (%r8)
  movq $1, (%r9)
  NEXT_CELL
1:
  EACH
  mov (%r9), %rax
  mov (%r8), %rdx
  mov %rax, (%r10)
  mov %rdx, 8(%r10)
  NEXT_CELL
load_buffering:
  cmp $1, %edi
  ja done_here
  je 1f
  EACH
  mov (%r8), %rax
  movq $1, (%r9)
  mov %rax, (%r10)
  NEXT_CELL
1:
  EACH
  mov (%r9), %rax
  movq $1, (%r8)
  mov %rax, 8(%r10)
  NEXT_CELL
two_writes:
  cmp $1, %edi
  ja done_here
  je 1f
  EACH
  movq $1, (%r8)
  movq $2, (%r9)
  NEXT_CELL
1:
  EACH
  movq $1, (%r9)
  movq $2, (%r8)
  NEXT_CELL
iriw:
  cmp $1, %edi
  je 1f
  ja 2f
  EACH
  movq $1, (%r8)
  NEXT_CELL
1:
  EACH
  movq $1, (%r9)
  NEXT_CELL
2: cmp $3, %edi
  je 3f
  EACH
  mov (%r8), %rax
  mov (%r9), %rdx
  mov %rax, (%r10)
  mov %rdx, 8(%r10)
  NEXT_CELL
3:
  EACH
  mov (%r9), %rax
  mov (%r8), %rdx
  mov %rax, 16(%r10)
  mov %rdx, 24(%r10)
  NEXT_CELL
# 0 writes X; 1 reads X, writes Y; 2 reads Y, then X.
chain:
  cmp $1, %edi
  je 1f
  ja 2f
  EACH
  movq $1, (%r8)
  NEXT_CELL
1:
  EACH
  mov (%r8), %rax
  mov %rax, (%r9)
  mov %rax, (%r10)
  NEXT_CELL
2: cmp $2, %edi
  ja done_here
  EACH
  mov (%r9), %rax
  mov (%r8), %rdx
  mov %rax, 8(%r10)
  mov %rdx, 16(%r10)
  NEXT_CELL
# 0 counts a cell up, the others read it twice.
coherence:
  cmp $1, %edi
  ja done_here
  je 1f
  EACH
  movq $1, (%r8)
  movq $2, (%r8)
  NEXT_CELL
1:
  EACH
  mov (%r8), %rax
  mov (%r8), %rdx
  mov %rax, (%r10)
  mov %rdx, 8(%r10)
  NEXT_CELL
done_here:
  ret

# --- outcomes that are forbidden; r8 counts them

both_zero:
  mov (%rbx), %rax
  or 8(%rbx), %rax
  jnz 1f
  inc %r8
1: ret
seen_backwards:
  cmpq $1, (%rbx)
  jne 1f
  cmpq $0, 8(%rbx)
  jne 1f
  inc %r8
1: ret
both_one:
  mov (%rbx), %rax
  and 8(%rbx), %rax
  jz 1f
  inc %r8
1: ret
both_one_left:
  cmpq $1, (%rsi)
  jne 1f
  cmpq $1, (%rdx)
  jne 1f
  inc %r8
1: ret
opposite_orders:
  cmpq $1, (%rbx)
  jne 1f
  cmpq $0, 8(%rbx)
  jne 1f
  cmpq $1, 16(%rbx)
  jne 1f
  cmpq $0, 24(%rbx)
  jne 1f
  inc %r8
1: ret
chain_broken:
  cmpq $1, 8(%rbx)
  jne 1f
  cmpq $0, 16(%rbx)
  jne 1f
  inc %r8
1: ret
went_back:
  mov (%rbx), %rax
  cmp 8(%rbx), %rax
  jbe 1f
  inc %r8
1: ret

# --- locked operations, TIMES by each processor

count_inc:
  mov $TIMES, %ecx
1: lock incq WORDS
  dec %ecx
  jnz 1b
  ret
count_xadd:
  mov $TIMES, %ecx
1: mov $3, %eax
  lock xadd %rax, WORDS + 64
  dec %ecx
  jnz 1b
  ret
count_cmpxchg:
  mov $TIMES, %ecx
1: mov WORDS + 128, %rax
2: lea 1(%rax), %rdx
  lock cmpxchg %rdx, WORDS + 128
  jne 2b
  dec %ecx
  jnz 1b
  ret
count_16b:
  mov $TIMES, %esi
1: mov WORDS + 192, %rax
  mov WORDS + 200, %rdx
2: lea 1(%rax), %rbx
  lea 5(%rdx), %rcx
  lock cmpxchg16b WORDS + 192
  jne 2b
  dec %esi
  jnz 1b
  ret
count_under_lock:
  mov $TIMES, %ecx
1: mov $1, %eax
  xchg %eax, WORDS + 256
  test %eax, %eax
  jz 3f
2: pause
  cmpl $0, WORDS + 256
  jne 2b
  jmp 1b
3: incq WORDS + 264
  movl $0, WORDS + 256
  dec %ecx
  jnz 1b
  ret
count_bits:
  mov $TIMES, %ecx
1: lock btsq %rdi, WORDS + 320
  jc 2f
  lock btrq %rdi, WORDS + 320
  jnc 2f
  dec %ecx
  jnz 1b
  ret
2: lock incq wrong
  ret
count_line:
  mov $TIMES, %ecx
1: lock incq WORDS + 0x400 - 4
  dec %ecx
  jnz 1b
  ret
count_page:
  mov $500, %ecx
1: lock incq WORDS + 0x1000 - 4
  dec %ecx
  jnz 1b
  ret
whole_stores:
  mov $TIMES * 4, %ecx
  test %edi, %edi
  jnz 2f
  xor %eax, %eax
1: not %rax
  mov %rax, WORDS + 0x2000
  mov %rax, WORDS + 0x2043
  dec %ecx
  jnz 1b
  ret
2: mov WORDS + 0x2000, %rax
  lea 1(%rax), %rdx
  cmp $1, %rdx
  ja 3f
  mov WORDS + 0x2043, %rax
  lea 1(%rax), %rdx
  cmp $1, %rdx
  ja 3f
  dec %ecx
  jnz 2b
  ret
3: lock incq wrong
  ret

# --- the other processors

# Waits until all are there, so that they run at once.
run_job:
  lock incl ready
1: pause
  cmpl $CPUS, ready
  jne 1b
  mov job, %eax
  call *%rax
  lock incl done
  ret

.code16
trampoline:
  cli
  xor %ax, %ax
  mov %ax, %ds
  lgdtl 0x8000 + trampoline_gdt - trampoline
  mov %cr0, %eax
  or $1, %al
  mov %eax, %cr0
  ljmpl $CODE32, $others_32
.balign 4
trampoline_gdt: .word gdt_end - gdt - 1
  .long gdt
trampoline_end:
.code32
others_32:
  mov $DATA, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  mov $pml4, %eax
  mov %eax, %cr3
  mov $0x620, %eax
  mov %eax, %cr4
  mov $0xc0000080, %ecx
  rdmsr
  or $0x901, %eax
  wrmsr
  mov $0x80010033, %eax
  mov %eax, %cr0
  ljmp $CODE64, $others_64
.code64
others_64:
  lidt idt_pointer
  mov $1, %ebp
  lock xadd %ebp, started
  mov %ebp, %eax
  inc %eax
  shl $12, %eax
  lea other_stacks(%rax), %rsp
  xor %r12d, %r12d
1: pause
  cmp turn, %r12d
  je 1b
  inc %r12d
  mov %ebp, %edi
  call run_job
  jmp 1b

.section .data
.balign 64
started: .long 1
.balign 64
turn: .long 0
.balign 64
ready: .long 0
.balign 64
done: .long 0
.balign 64
job: .long 0
rounds: .long 0
wrong: .quad 0
.section .bss
.balign 4096
other_stacks: .skip 4096 * (CPUS + 1)
.section .text
