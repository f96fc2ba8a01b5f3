# For tests, examples and benchmarks, which spend their time in the library:
# compiled quickly rather than well, and libtorch's headers once for them all.

if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  add_compile_options(-O1)
endif()

# peft_reuse_torch_headers(targets...): they need to link peft::peft and
# peft_warnings, one of which changes what the compiler predefines.
function(peft_reuse_torch_headers)
  if(NOT PEFT_USE_PCH)
    return()
  endif()
  if(NOT TARGET peft_torch_headers)
    set(source ${PROJECT_BINARY_DIR}/torch_headers.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "// Only for its headers.\n")
    add_library(peft_torch_headers OBJECT ${source})
    target_link_libraries(peft_torch_headers PRIVATE peft::peft peft_warnings)
    target_precompile_headers(peft_torch_headers PRIVATE <torch/torch.h>)
  endif()
  foreach(target IN LISTS ARGN)
    target_precompile_headers(${target} REUSE_FROM peft_torch_headers)
  endforeach()
endfunction()
