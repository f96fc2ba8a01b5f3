# The warnings of this project's own code, for PRIVATE linking; libtorch's
# headers are system headers and stay silent.

add_library(peft_warnings INTERFACE)
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  target_compile_options(
    peft_warnings
    INTERFACE -Wall
              -Wextra
              -Wno-missing-field-initializers # designated initialisers
              -Wpedantic
              -Wcast-qual
              -Wnon-virtual-dtor
              -Woverloaded-virtual
              -Wshadow
              -Wundef
              -Wunused)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 and 13 see these where std::string is inlined, and there is nothing.
  target_compile_options(
    peft_warnings INTERFACE -Wno-array-bounds -Wno-restrict
                            -Wno-stringop-overflow -Wno-stringop-overread)
  if(PEFT_SANITIZE)  # and these in instrumented std::optional
    target_compile_options(peft_warnings INTERFACE -Wno-maybe-uninitialized)
  endif()
endif()
